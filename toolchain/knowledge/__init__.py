"""Knowledge on the board: passages of the user's documents, and the embedder that finds them."""

"""Knowledge on the board: passages of documents, and the embedder that finds them."""

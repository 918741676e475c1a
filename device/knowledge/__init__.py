"""Knowledge on the board: passages of documents, found by words and by meaning.

`index.py` reads `knowledge.db` and searches it, `consult.py` says what is done with what was found,
`library.py` opens both files of a bundle. What the host must do alike is in
`device/manifest/knowledge.py`. Standard library only, Python 3.10 up; the embedder alone needs
llama.cpp (device/engine/llama/embedder.py).
"""

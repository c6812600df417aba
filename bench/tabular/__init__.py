"""Examples that are rows of a file: tables, texts and embeddings, read, checked and made into arrays once."""

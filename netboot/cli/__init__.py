"""`metalcast`: words in, exit status out."""

"""`python -m cli`: the command line where the script `corpusmill` is not on the path."""

from cli import main

if __name__ == "__main__":
    main()

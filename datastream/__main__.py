"""``python -m datastream``: the command line."""

from datastream.cli import main

if __name__ == "__main__":
    main(prog_name="datastream")

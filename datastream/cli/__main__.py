"""``python -m datastream.cli``."""

from datastream.cli import main

if __name__ == "__main__":
    main(prog_name="datastream")

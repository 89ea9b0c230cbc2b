"""python -m videoai: the same as the command videoai."""

from videoai.cli import main

if __name__ == "__main__":
    main()

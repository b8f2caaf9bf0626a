"""`python -m modelramp_server`: the same as the console script."""

from modelramp_server.cli import main

if __name__ == "__main__":
    main()

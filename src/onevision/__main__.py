"""`python -m onevision`, and with it `torchrun -m onevision`."""

from onevision.cli import main

if __name__ == "__main__":
    main()

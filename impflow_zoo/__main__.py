"""`python -m impflow_zoo` is `impflow-zoo`."""

from impflow_zoo.cli import main

if __name__ == "__main__":
    main()

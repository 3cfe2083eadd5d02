"""`python -m scpl_ray`."""

from scpl_ray.cli.main import main

if __name__ == "__main__":
    main()

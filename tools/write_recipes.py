"""Write recipes/paper and recipes/modern from ``resnext.paper.recipes``: ``python tools/write_recipes.py [DIR]``."""

import sys
from pathlib import Path

from resnext.errors import ResnextError
from resnext.paper.recipe_files import write_recipes

if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "recipes"
    try:
        print(f"{len(write_recipes(target))} recipes in {target}")
    except ResnextError as error:
        sys.exit(f"write_recipes: {error}")

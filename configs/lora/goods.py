"""The other way round: MiniLM learns the mood of reviews of goods, and is asked about films.

Command: clujax run configs/lora/goods.py --workdir runs/goods
Needs:   what movies.py needs
Time:    about half an hour on two CPU cores
Result:  docs/results/flat_lora.md (no difference beyond chance)
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The comparison of `movies.py` with the corpora exchanged."""
    config = runpy.run_path(str(pathlib.Path(__file__).parent / "movies.py"))["get_config"]()
    config.title = "Flat-LoRA on MiniLM: goods, then film reviews"
    config.data.name = "amazon_snippets"
    config.data.others = ("movie_snippets", "tweets")
    return config

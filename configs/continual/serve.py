"""A digit classifier in service: it learns and forgets what JSONL lines ask, each exactly once, and keeps a ledger.

Command: clujax serve-requests configs/continual/serve.py --workdir runs/served --from requests.jsonl
Time:    half a minute to start; a few seconds a request on two CPU cores
Result:  `clujax ledger show runs/served`, `clujax ledger verify runs/served`
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The network of `demo.py` after its digits 0–3; UG-CLU with a memory of 500 rows."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("demo.py")))["get_config"]()
    config.title = "A digit classifier in service"
    config.deploy = ConfigDict({"method": "ug_clu", "classes": (0, 1, 2, 3), "task_aware": False})
    config.methods.ug_clu.ascent = 1.0
    return config

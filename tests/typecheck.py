"""The run-time checker of annotations: beartype, with an int welcome where a float is meant (PEP 484's tower)."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))

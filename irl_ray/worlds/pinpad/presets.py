"""The presets `tiny`, `small` and `paper` of both pin-pads and of the phases in them.

The gridworld's `medium` is the world of `paper`.
"""

from __future__ import annotations

from typing import Any

_TABLE_A1 = {"grid_size": 7, "num_colours": 8, "num_walls": 4, "horizon": 100, "tasks": "table_a1"}
GRIDWORLDS: dict[str, dict[str, Any]] = {
    "tiny": {
        "grid_size": 4,
        "num_colours": 4,
        "num_walls": 0,
        "horizon": 30,
        "tasks": "two_pairs",
    },
    "small": {
        "grid_size": 5,
        "num_colours": 6,
        "num_walls": 1,
        "horizon": 60,
        "tasks": "three_pairs",
    },
    "medium": _TABLE_A1,  # smaller models and our settings, in the paper's world
    "paper": _TABLE_A1,
}
_ANT = {"grid_size": 4, "num_colours": 4, "num_walls": 1, "tasks": "table_a2", "colours_per_subgoal": 1}
ANTS: dict[str, dict[str, Any]] = {
    "tiny": {**_ANT, "grid_size": 3, "num_walls": 0, "horizon": 60, "control": "position", "yaw": "aligned"},
    "small": {**_ANT, "horizon": 200, "control": "position", "yaw": "aligned"},
    "paper": {**_ANT, "horizon": 500, "control": "torque", "yaw": "random"},
}
POST_TRAINING_TASKS = {
    "tiny": "post_two_pairs", "small": "post_three_pairs", "medium": "post_a1", "paper": "post_a1",
}  # fmt: skip

_SMALL_PRETRAIN = {
    "world": GRIDWORLDS["small"],
    "term_weights": {"static": 0.05},
    "optimizer": {"learning_rate": 4e-3, "schedule": "cosine", "warmup_steps": 200},
    "post_task": POST_TRAINING_TASKS["small"],
    "control_layers": [0, 1, 2],
}
_GRIDWORLD_PRETRAIN = {
    "tiny": {
        "world": GRIDWORLDS["tiny"],
        "term_weights": {"static": 0.05},
        "model": {"width": 32, "layers": 2, "heads": 2, "mlp": 64},
        "optimizer": {"learning_rate": 4e-3, "schedule": "cosine", "warmup_steps": 20},
        "steps": 60,
        "batch_size": 32,
        "post_task": POST_TRAINING_TASKS["tiny"],
        "control_steps": 10,
        "gate_episodes": 64,
        "report_every": 20,
    },
    "small": {
        **_SMALL_PRETRAIN,
        "model": {"encoder": "surroundings"},
        "window_share": 0.7,
        # The agent's own cell is not observed, so its next one is not to be told.
        "observation_weight": 0.0,
        "term_weights": {"static": 0.0},
        "steps": 24_000,
        "control_rank": None,
        "control_steps": 600,
    },
    "taught": _SMALL_PRETRAIN,
    "medium": {
        "world": GRIDWORLDS["medium"],
        "term_weights": {"static": 0.05},
        "model": {"width": 128, "layers": 6, "heads": 4, "mlp": 256},
        "optimizer": {"learning_rate": 3e-3, "schedule": "cosine", "warmup_steps": 300},
        "steps": 24_000,
        "post_task": POST_TRAINING_TASKS["medium"],
        "control_steps": 800,
        "control_layers": [0, 1, 2, 3, 4, 5, 6],
    },
    "paper": {
        "world": GRIDWORLDS["paper"],
        "model": {
            "width": 256, "layers": 6, "heads": 4, "mlp": 512, "encoder": "absolute",
            "init_scale": 0.1, "embedding_std": 0.02,
        },
        "optimizer": {"learning_rate": 3e-4},
        "steps": 256_000,
        "batch_size": 1024,
        "observation_weight": 0.01,
        "post_task": POST_TRAINING_TASKS["paper"],
        "control_steps": 3200,
        "control_layers": [0, 1, 2, 3, 4, 5, 6],
    },
}  # fmt: skip
_ANT_PRETRAIN = {
    "tiny": {
        "world": ANTS["tiny"],
        "model": {"mixer": "hawk", "width": 32, "layers": 2, "heads": 2, "mlp": 48, "encoder": "relative"},
        "optimizer": {"learning_rate": 4e-3, "schedule": "cosine", "warmup_steps": 20},
        "steps": 40,
        "batch_size": 16,
        "post_task": "post_a2",
        "control_steps": 5,
        "control_rank": None,
        "goal_steps": 5,
        "gate_episodes": 16,
        "report_every": 20,
    },
    "small": {
        "world": ANTS["small"],
        "model": {"mixer": "hawk", "width": 96, "layers": 3, "heads": 4, "mlp": 256, "encoder": "relative"},
        "optimizer": {"learning_rate": 3e-3, "schedule": "cosine", "warmup_steps": 100},
        "steps": 5000,
        "batch_size": 64,
        "term_weights": {"cell": 10.0},
        "entry_batch_size": 256,
        "post_task": "post_a2",
        "control_steps": 600,
        "control_rank": None,
        "control_layers": [0, 1],
        "goal_steps": 2500,
        "gate_episodes": 512,
        "action_temperature": 0.2,
    },
    "paper": {
        "world": ANTS["paper"],
        "model": {
            "mixer": "hawk", "width": 256, "layers": 8, "heads": 8, "mlp": 512, "encoder": "linear",
            "init_scale": 0.1, "min_log_std": -5.0,
        },
        "optimizer": {"learning_rate": 3e-4},
        "steps": 204_800,
        "batch_size": 512,
        "observation_weight": 10.0,
        "post_task": "post_a2",
        "control_steps": 3200,
        "control_rank": None,
        "control_layers": [0, 2, 4, 6, 8],
        "goal_steps": 3200,
    },
}  # fmt: skip

_TAUGHT = {
    "optimizer": {"learning_rate": 1e-2, "schedule": "cosine"},
    "metacontroller": {"layer": 0, "rank": None, "controller_scale": 1.0, "switch": "gumbel"},
    "teacher": {"steps": 2400, "weigh_after": 600, "code_noise": 0.6},
    "alpha": 0.1,
    "steps": 2400,
    "batch_size": 64,
}
_GRIDWORLD_DISCOVER = {
    "tiny": {
        "optimizer": {"learning_rate": 5e-3, "schedule": "cosine"},
        "metacontroller": {"code_size": 4, "memory_size": 8, "summary_size": 8, "rank": 4},
        "alpha_hold": 0.25,
        "alpha_ramp": 0.6,
        "steps": 60,
        "batch_size": 16,
        "gate_episodes": 64,
        "report_every": 20,
        "post_task": POST_TRAINING_TASKS["tiny"],
    },
    "small": {
        "optimizer": {"learning_rate": 3e-3, "schedule": "cosine"},
        "metacontroller": {**_TAUGHT["metacontroller"], "decoder_hidden": None},
        "ties": "rule",
        "clean_slate": True,
        "alpha": 0.1,
        "alpha_hold": 0.2,
        "alpha_ramp": 0.8,
        "steps": 4000,
        "batch_size": 64,
        "length_groups": 2,
        "post_task": POST_TRAINING_TASKS["small"],
    },
    "taught": {**_TAUGHT, "post_task": POST_TRAINING_TASKS["small"]},
    "medium": {
        "optimizer": {"learning_rate": 8e-3, "schedule": "cosine"},
        "metacontroller": {
            **_TAUGHT["metacontroller"],
            "decoder_hidden": None,
            "code_size": 16,
            "memory_size": 64,
            "summary_size": 64,
            "encoder_hidden": 128,
            "read_at": "end",
        },
        "ties": "rule",
        "clean_slate": True,
        "turned_summaries": True,
        "alpha": 0.1,
        "alpha_hold": 0.45,
        "alpha_ramp": 0.9,
        "switch_cost": 0.5,
        "switch_cost_hold": 0.1,
        "switch_cost_ramp": 0.4,
        "steps": 3000,
        "batch_size": 64,
        "length_groups": 2,
        "post_task": POST_TRAINING_TASKS["medium"],
    },
    "paper": {
        "optimizer": {"learning_rate": 1e-3},
        "metacontroller": {"initial_log_std": 0.0, "initial_switch_bias": 0.0},
        "post_task": POST_TRAINING_TASKS["paper"],
    },
}
_ANT_GATES = {"post_task": "post_a2", "switch_tolerance": 5}
_ANT_DISCOVER = {
    "tiny": {**_GRIDWORLD_DISCOVER["tiny"], **_ANT_GATES, "gate_episodes": 16, "batch_size": 8, "steps": 20},
    "small": {
        "optimizer": {"learning_rate": 5e-3, "schedule": "cosine"},
        "metacontroller": {
            "layer": 0,
            "rank": None,
            "controller_scale": 0.1,
            "switch": "gumbel",
            "decoder_hidden": None,
        },
        "teacher": {
            "steps": 1000,
            "weigh_after": 300,
            "code_noise": 0.3,
            "window": 6,
            "entry_batch_size": 128,
            "cell_weight": 3.0,
        },
        "alpha": 0.1,
        "steps": 1000,
        "batch_size": 32,
        "action_temperature": 0.2,
        "gate_episodes": 512,
        **_ANT_GATES,
    },
    "paper": {
        "optimizer": {"learning_rate": 3e-4},
        "metacontroller": {"initial_log_std": 0.0, "initial_switch_bias": 0.0, "rank": None},
        "steps": 32_000,
        "batch_size": 128,
        **_ANT_GATES,
    },
}

_SHARED = ("metacontroller", "optimizer", "steps", "batch_size", "post_task", "gate_episodes", "report_every",
           "switch_tolerance", "action_temperature", "ties", "length_groups")  # fmt: skip


def _compile(discover: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """CompILE's presets are discovery's, as far as it has the settings; where a code is read, its segments say."""
    found = {name: {k: v for k, v in preset.items() if k in _SHARED} for name, preset in discover.items()}
    for preset in found.values():
        preset["metacontroller"] = {k: v for k, v in preset["metacontroller"].items() if k != "read_at"}
    return found


GRIDWORLD = {
    "world": GRIDWORLDS,
    "pretrain": _GRIDWORLD_PRETRAIN,
    "discover": _GRIDWORLD_DISCOVER,
    "compile": _compile(_GRIDWORLD_DISCOVER),
}
ANT = {"world": ANTS, "pretrain": _ANT_PRETRAIN, "discover": _ANT_DISCOVER, "compile": _compile(_ANT_DISCOVER)}

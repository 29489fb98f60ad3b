"""Pin-pad environments; importing this package registers them with Gymnasium."""

from __future__ import annotations

import gymnasium as gym

from irl_ray.worlds.pinpad.specs import ANT_ID, GRIDWORLD_ID, GUIDED_ANT_ID

_CLASSES = {
    GRIDWORLD_ID: ("gridworld:GridPinpadEnv", "gridworld:GridPinpadVectorEnv"),
    ANT_ID: ("ant:AntPinpadEnv", "ant:AntPinpadVectorEnv"),
    GUIDED_ANT_ID: ("guided:GuidedAntEnv", "guided:GuidedAntVectorEnv"),
}

for _id, (_single, _vector) in _CLASSES.items():
    if _id not in gym.registry:
        gym.register(
            _id, entry_point=f"irl_ray.worlds.pinpad.{_single}", vector_entry_point=f"irl_ray.worlds.pinpad.{_vector}"
        )

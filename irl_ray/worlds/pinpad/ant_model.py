"""The physics of the ant: Gymnasium's MuJoCo model with another integrator and our actuators."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from xml.etree import ElementTree

from irl_ray.errors import UserError
from irl_ray.worlds.pinpad.senses import ANKLE_SIGN

try:
    import mujoco
    import mujoco.rollout
except (AttributeError, RuntimeError) as _error:  # MuJoCo opens the OpenGL that MUJOCO_GL names with its import
    raise UserError(
        f"MUJOCO_GL={os.environ.get('MUJOCO_GL', '')}: MuJoCo does not start with it ({_error}); expected egl (with "
        "libegl1 installed), osmesa (with libosmesa6), glfw (with a screen) or disable, or leave it out"
    ) from None

TIMESTEP = 0.025  # seconds; semi-implicit Euler
# Hip and ankle of legs 1 to 4, counted counterclockwise from the front left.
JOINTS = tuple(f"{part}_{leg}" for leg in range(1, 5) for part in ("hip", "ankle"))
MAX_TORQUE = 150.0
# Position control: torque = clip(STIFFNESS (target - q) - DAMPING q', +-MAX_TORQUE).
STIFFNESS, DAMPING = 150.0, 7.5
HIP_RANGE, ANKLE_CENTRE, ANKLE_RANGE = 0.6, 0.87, 0.5


def ant_model(control: str) -> mujoco.MjModel:
    """MuJoCo's ant with semi-implicit Euler steps of 25 ms and actuators in the order of `JOINTS`.

    Args:
        control: "torque" (an action of 1 is 150 Nm, as in Gymnasium) or "position" (an action in
            [-1, 1] is a joint's target; a PD law inside MuJoCo follows it).
    """
    root = ElementTree.parse(_gymnasium_ant()).getroot()
    root.find("compiler").attrib.pop("coordinate", None)  # removed from MuJoCo
    root.find("option").attrib.update(integrator="Euler", timestep=str(TIMESTEP))
    size = ElementTree.SubElement(root, "visual")
    ElementTree.SubElement(size, "global", offwidth="1280", offheight="1280")
    actuators = root.find("actuator")
    actuators.clear()
    for number, joint in enumerate(JOINTS):
        common = {"joint": joint, "ctrllimited": "true", "ctrlrange": "-1 1"}
        if control == "torque":
            ElementTree.SubElement(actuators, "motor", gear=str(MAX_TORQUE), **common)
            continue
        ankle = number % 2 == 1
        centre = ANKLE_CENTRE * ANKLE_SIGN[number // 2] if ankle else 0.0
        span = ANKLE_RANGE if ankle else HIP_RANGE
        ElementTree.SubElement(
            actuators,
            "general",
            biastype="affine",
            gainprm=f"{STIFFNESS * span}",
            biasprm=f"{STIFFNESS * centre} {-STIFFNESS} {-DAMPING}",
            forcelimited="true",
            forcerange=f"{-MAX_TORQUE} {MAX_TORQUE}",
            **common,
        )
    model = mujoco.MjModel.from_xml_string(ElementTree.tostring(root, encoding="unicode"))
    # Exploding physics must stay visible: by default MuJoCo would start such a copy anew in silence.
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
    return model


def _gymnasium_ant() -> Path:
    package = Path(importlib.util.find_spec("gymnasium").origin).parent
    return package / "envs" / "mujoco" / "assets" / "ant.xml"

"""The ant as MuJoCo draws it, on the board that every pin-pad is drawn on."""

from __future__ import annotations

import atexit
import warnings

import numpy as np

from irl_ray.errors import UserError
from irl_ray.worlds.pinpad import rendering
from irl_ray.worlds.pinpad.ant_model import ant_model, mujoco
from irl_ray.worlds.pinpad.specs import AntSpec

GRID, MARGIN = 288, 30  # pixels of the grid, and around it, where an ant is seen that has left
FIELD_OF_VIEW = 8.0  # degrees, from far above: the torso is seen over the cell that it is in
HEIGHT = 0.5  # metres, at which the camera's scale is the board's
SHADOW, SHADE = 5, 0.8  # pixels to the right and down; what is left of the board's light
TORSO, LEG, SHIN = (0.16, 0.17, 0.20, 1), (0.24, 0.26, 0.31, 1), (0.36, 0.39, 0.46, 1)

_opengl_failed: str | None = None


class AntCamera:
    """Sees one ant of a world from above.

    Raises:
        UserError: if there is no OpenGL to draw with.
    """

    def __init__(self, world: AntSpec):
        self.world, self.cell = world, GRID // world.grid_size
        self.side = (world.grid_size * self.cell + 2 * MARGIN) * rendering.FINE
        self._model = ant_model(world.control)
        self._data = mujoco.MjData(self._model)
        self._model.vis.global_.fovy = FIELD_OF_VIEW
        self._model.geom_matid[:] = -1
        for geom in range(self._model.ngeom):
            name = self._model.geom(geom).name
            tint = LEG if "leg" in name or "aux" in name else SHIN if "ankle" in name else TORSO
            self._model.geom_rgba[geom] = (0, 0, 0, 0) if name == "floor" else tint
        self._renderer = _renderer(self._model, self.side)
        atexit.register(self.close)  # later, when Python is half gone, OpenGL's wrappers fail
        flags = self._renderer.scene.flags
        for flag in ("SHADOW", "REFLECTION", "SKYBOX", "FOG", "HAZE"):
            flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = 0
        self._camera = mujoco.MjvCamera()
        self._camera.lookat[:] = 0, 0, HEIGHT
        self._camera.azimuth, self._camera.elevation = 90, -90
        metres = self.side / (self.cell * rendering.FINE) * world.cell_size
        self._camera.distance = metres / (2 * np.tan(np.radians(FIELD_OF_VIEW) / 2))

    def frame(self, physics: np.ndarray, entities: np.ndarray, caption: rendering.Caption) -> np.ndarray:
        """uint8 [H, W, 3]: the board, the ant in its full physics state, and the caption."""
        from PIL import Image

        board = np.array(rendering.board(self.world, entities, self.cell, MARGIN, caption.outcome))
        mujoco.mj_setState(self._model, self._data, physics, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        mujoco.mj_forward(self._model, self._data)
        self._renderer.update_scene(self._data, self._camera)
        ant = self._renderer.render()
        seen, offset = ant.any(-1), SHADOW * rendering.FINE
        shaded = np.zeros_like(seen)
        shaded[offset:, offset:] = seen[:-offset, :-offset]
        board[shaded] = board[shaded] * SHADE
        board[seen] = ant[seen]
        return rendering.captioned(Image.fromarray(board).reduce(rendering.FINE), caption)

    def close(self) -> None:
        """Gives OpenGL back."""
        atexit.unregister(self.close)
        self._renderer.close()


def _renderer(model: mujoco.MjModel, side: int) -> mujoco.Renderer:
    global _opengl_failed
    if _opengl_failed is None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # several lines on what the error says in one
                return mujoco.Renderer(model, side, side)
        except Exception as error:  # what fails depends on the OpenGL at hand
            # MuJoCo ends the process when it is asked again.
            _opengl_failed = str(error)
    raise UserError(
        f"rendering needs OpenGL ({_opengl_failed}); without a screen set MUJOCO_GL=egl (or osmesa, with "
        "libosmesa6 installed) before Python starts"
    )

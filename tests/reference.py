"""The rules of gridworld-pinpad once more: slow, plain, written from the paper's Appendix A alone."""

from __future__ import annotations

from collections import deque

MOVES = {0: (-1, 0), 1: (0, 1), 2: (1, 0), 3: (0, -1)}  # up, right, down, left


class ReferencePinpad:
    """One copy on explicit coordinates."""

    def __init__(self, size, colours, walls, agent, task, horizon):
        self.size, self.colours, self.walls = size, colours, set(walls)
        self.agent, self.task, self.horizon = agent, task, horizon
        self.progress, self.time, self.done, self.cut = 0, 0, False, False

    def step(self, action):
        row, column = self.agent
        down, right = MOVES[action]
        cell = (row + down, column + right)
        inside = 0 <= cell[0] < self.size and 0 <= cell[1] < self.size
        if not inside or cell in self.walls:
            cell = self.agent
        entered = self.colours.index(cell) if cell != self.agent and cell in self.colours else None
        self.agent, self.time, reward = cell, self.time + 1, 0.0
        if entered is not None:
            if entered == self.task[self.progress]:
                self.progress += 1
                if self.progress == len(self.task):
                    self.done, reward = True, 1.0
            else:
                self.done = True
        self.cut = not self.done and self.time >= self.horizon
        return reward


def path_length(size, obstacles, start, goal):
    """Breadth-first search; None if there is no path. The start may be an obstacle itself."""
    queue, seen = deque([(start, 0)]), {start}
    while queue:
        (row, column), distance = queue.popleft()
        if (row, column) == goal:
            return distance
        for down, right in MOVES.values():
            cell = (row + down, column + right)
            inside = 0 <= cell[0] < size and 0 <= cell[1] < size
            if inside and cell not in seen and cell not in obstacles:
                seen.add(cell)
                queue.append((cell, distance + 1))
    return None

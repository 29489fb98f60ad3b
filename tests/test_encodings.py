"""Files are UTF-8 whatever the locale, and a console of any locale can be written to."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import irl_ray

PACKAGE = Path(irl_ray.__file__).parent
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def unsaid(call: ast.Call) -> bool:
    """Whether a call opens a file as text in the encoding of the locale."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") in ("places", "tarfile"):
        return False  # UTF-8, and no text
    texts = [argument.value for argument in call.args if isinstance(getattr(argument, "value", None), str)]
    binary = any(set(text) <= set("rwxab+") and "b" in text for text in texts)
    said = any(keyword.arg == "encoding" for keyword in call.keywords)
    return name in ("open", "read_text", "write_text", "fdopen", "NamedTemporaryFile") and not binary and not said


def test_every_text_file_is_opened_as_utf8():
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and unsaid(node)
    ]
    assert not found


def test_a_file_with_umlauts_under_the_c_locale(tmp_path):
    (tmp_path / "tuned_configs").mkdir()
    text = "grün:\n  run: InternalRL\n  description: α schön 0.1\n  config: {metacontroler: grün}\n"
    (tmp_path / "tuned_configs" / "x.yaml").write_text(text, encoding="utf-8")
    code = "import sys; from irl_ray.cli.rllib import main; sys.exit(main(sys.argv[1:]))"
    for arguments, expected in ((["example", "list"], 0), (["train", "file", "tuned_configs/x.yaml"], 2)):
        environment = {**os.environ, **C_LOCALE, "PYTHONPATH": str(PACKAGE.parent)}
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == expected, done.stderr
        assert "Traceback" not in done.stderr
        assert ("sch" if expected == 0 else "metacontroller") in done.stdout + done.stderr

"""Everything in cluster/ against the real thing where it can be had: Ray's own validator for launcher files, the
fields of KubeRay's resources and the Kubernetes client's models for pods, shellcheck, and a SLURM of one node."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from kubernetes import client as kubernetes
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "cluster"
LAUNCHERS = ("aws", "gcp")
MANIFESTS = ("raycluster", "rayjob")


@pytest.mark.parametrize("name", LAUNCHERS)
def test_ray_accepts_the_launcher_file(name: str):
    config = prepare_config(yaml.safe_load((CLUSTER / f"{name}.yaml").read_text()))
    validate_config(config)
    assert config["available_node_types"]["rollout"]["min_workers"] == 0  # nothing is paid for while nothing runs
    commands = " ".join(config["setup_commands"] + config["head_start_ray_commands"])
    assert "RAY_AUTH_MODE=token" in commands and "--dashboard-host=127.0.0.1" in commands
    assert any("auth_token" in path for path in config["file_mounts"])
    assert all(path.startswith(("/", "__")) for path in config["rsync_exclude"])  # or irl_ray/data would stay behind
    broken = {**config, "max_workers": "eight"}
    with pytest.raises(jsonschema.ValidationError):
        validate_config(broken)


def test_one_version_of_ray_and_torch_everywhere():
    """What the files install is what this environment's tests ran with."""
    texts = {path: path.read_text() for path in CLUSTER.rglob("*") if path.is_file()}
    assert all("torch==2.13.0" in texts[CLUSTER / name] for name in ("aws.yaml", "gcp.yaml", "Dockerfile"))
    found = {
        m for text in texts.values() for m in re.findall(r"ray\[default\]==([\d.]+)|rayVersion: \"([\d.]+)\"", text)
    }
    assert {a or b for a, b in found} == {metadata.version("ray")}
    for path in (CLUSTER / "kuberay").iterdir():
        assert f"irl_ray:{metadata.version('irl_ray')}" in texts[path], path


# The fields of KubeRay 1.6's `ray.io/v1` resources that can be given here; pods are Kubernetes' own. Compared with
# revisions of ray-operator/apis/ray/v1/{raycluster,rayjob}_types.go, of which the published CRDs are made.
def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": required}


_TEXT, _WHOLE, _YES = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
_POD = {"type": "object", "required": ["spec"]}
_START = {"type": "object", "additionalProperties": _TEXT}
_AUTOSCALER = _object(
    [], upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]}, idleTimeoutSeconds=_WHOLE,
    resources={"type": "object"}, version={"enum": ["v1", "v2"]}, image=_TEXT, imagePullPolicy=_TEXT,
)  # fmt: skip
_CLUSTER = _object(
    ["headGroupSpec"], rayVersion=_TEXT,
    authOptions=_object([], mode={"enum": ["token", "disabled"]}, secretName=_TEXT),
    enableInTreeAutoscaling=_YES, autoscalerOptions=_AUTOSCALER, suspend=_YES,
    headGroupSpec=_object(["template"], serviceType=_TEXT, rayStartParams=_START, template=_POD),
    workerGroupSpecs={"type": "array", "items": _object(
        ["groupName", "template", "minReplicas", "maxReplicas"], groupName=_TEXT, replicas=_WHOLE, minReplicas=_WHOLE,
        maxReplicas=_WHOLE, numOfHosts=_WHOLE, idleTimeoutSeconds=_WHOLE, rayStartParams=_START, template=_POD)},
)  # fmt: skip
_JOB = _object(
    ["entrypoint", "rayClusterSpec"], entrypoint=_TEXT, rayClusterSpec=_CLUSTER, shutdownAfterJobFinishes=_YES,
    ttlSecondsAfterFinished=_WHOLE, activeDeadlineSeconds=_WHOLE, backoffLimit=_WHOLE, runtimeEnvYAML=_TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    entrypointNumCpus={"type": "number"}, suspend=_YES,
)  # fmt: skip


def manifest(name: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / "kuberay" / f"{name}.yaml").read_text())


def _names(node: Any, kind: str, where: str) -> None:
    """Every key of a pod is one that Kubernetes knows, with a value of its type.

    Raises:
        AssertionError: that says where it is not.
    """
    if (inner := re.fullmatch(r"[Ll]ist\[(.+)]", kind)) is not None:
        assert isinstance(node, list), where
        for i, item in enumerate(node):
            _names(item, inner[1], f"{where}[{i}]")
    elif (inner := re.fullmatch(r"[Dd]ict[\[(]\w+, (.+)[\])]", kind)) is not None:
        assert isinstance(node, dict), where
        for key, value in node.items():
            _names(value, inner[1], f"{where}.{key}")
    elif kind in ("str", "int", "bool", "float"):
        assert isinstance(node, {"str": str, "int": int, "bool": bool, "float": (int, float)}[kind]), where
    elif kind != "object":
        model = getattr(kubernetes, kind)
        names = {shown: name for name, shown in model.attribute_map.items()}
        assert isinstance(node, dict) and node.keys() <= names.keys(), f"{where}: {set(node) - set(names)}"
        for key, value in node.items():
            _names(value, model.openapi_types[names[key]], f"{where}.{key}")
        model(**{names[key]: value for key, value in node.items()})  # asks for what is required


@pytest.mark.parametrize("name", MANIFESTS)
def test_kuberay_knows_every_field_and_kubernetes_every_pod(name: str):
    found = manifest(name)
    assert found["apiVersion"] == "ray.io/v1"
    jsonschema.validate(found["spec"], {"RayCluster": _CLUSTER, "RayJob": _JOB}[found["kind"]])
    spec = found["spec"].get("rayClusterSpec", found["spec"])
    assert spec["authOptions"]["mode"] == "token" and spec["enableInTreeAutoscaling"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        _names(group["template"], "V1PodTemplateSpec", group.get("groupName", "head"))
        for container in group["template"]["spec"]["containers"]:
            assert container["resources"]["requests"] == container["resources"]["limits"]  # Ray counts the limits
            assert container["securityContext"]["runAsNonRoot"]
        assert group["template"]["spec"]["securityContext"]["fsGroup"] == 1000  # or the results are root's


def test_a_mistake_in_a_manifest_is_found():
    spec = manifest("rayjob")["spec"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**spec, "shutdownAfterJobFinish": True}, _JOB)
    with pytest.raises(AssertionError, match="volumeMount"):
        _names({"spec": {"containers": [{"name": "x", "volumeMount": []}]}}, "V1PodTemplateSpec", "head")


def test_a_job_carries_on_and_goes():
    spec = manifest("rayjob")["spec"]
    assert "--resume" in spec["entrypoint"] and spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] and spec["ttlSecondsAfterFinished"] > 0


def test_files_named_by_the_entrypoints_exist():
    for path in CLUSTER.rglob("*"):
        if path.is_file():
            for name in re.findall(r"tuned_configs/\w+\.yaml", path.read_text()):
                assert (ROOT / name).is_file(), f"{path}: {name}"


def test_shellcheck():
    command = shutil.which("shellcheck") or Path(sys.executable).with_name("shellcheck")
    found = subprocess.run([command, CLUSTER / "slurm.sh"], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


_SLURM = """
set -eu
cd {folder} && mkdir state spool
dd if=/dev/urandom of=key bs=1024 count=1 status=none && chmod 400 key
munged --force --key-file={folder}/key --socket={folder}/munge --pid-file={folder}/munged.pid \\
    --log-file={folder}/munged.log --seed-file={folder}/seed
export SLURM_CONF={folder}/slurm.conf
slurmctld && slurmd -N "$(hostname -s)"
cd {root}
id=$(sbatch --parsable --time 5 --output {folder}/job.log --chdir {root} cluster/slurm.sh \\
    tuned_configs/gridworld_internal.yaml --storage-path {folder}/results \\
    --config '{{"train_batch_episodes": 8, "env_config": {{"preset": "small"}}}}')
for _ in $(seq 300); do
    sleep 0.5
    grep -q "^0  " {folder}/job.log 2> /dev/null && break  # its first line of results
done
grep -q "^0  " {folder}/job.log || {{ echo "no result came in time" >&2; exit 1; }}
scancel --signal INT "$id"
for _ in $(seq 120); do sleep 0.5; [ -n "$(squeue --noheader --job "$id" 2> /dev/null)" ] || break; done
"""
_SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
AuthInfo=socket={folder}/munge
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort=16817
SlurmdPort=16818
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=10 State=UP
"""
_NEEDED = ("sbatch", "slurmctld", "slurmd", "munged", "unshare")


@pytest.mark.skipif(
    any(shutil.which(name) is None for name in _NEEDED), reason="no SLURM here (Debian: apt install slurm-wlm)"
)
def test_slurm_runs_the_file_and_an_interrupt_saves_it(tmp_path: Path):
    """A SLURM of one node, in a process namespace of its own: Ray's stop ends every Ray that it sees."""
    host = subprocess.run(["hostname", "-s"], capture_output=True, text=True).stdout.strip()
    (tmp_path / "slurm.conf").write_text(_SLURM_CONF.format(folder=tmp_path, host=host))
    script = _SLURM.format(folder=tmp_path, root=ROOT)
    alone = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("may not make a process namespace here")
    started = subprocess.run([*alone, "bash", "-c", script], capture_output=True, text=True, timeout=280)
    log = (tmp_path / "job.log").read_text() if (tmp_path / "job.log").is_file() else ""
    logs = "\n".join(path.read_text()[-1500:] for path in tmp_path.glob("slurm*.log"))
    assert "everything is saved" in log, f"{started.stderr}\n{log}\n{logs}"
    assert list(tmp_path.glob("results/*/*/checkpoint_*/artefact/model.safetensors"))

"""The job script and the manifest of docs/cluster.md are what their programs read."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from fungi_cli.main import app
from pages import CHECKOUT, blocks
from typer.testing import CliRunner

from fungistore.engines.options import EngineChoice
from fungistore.settings import fields_of

PAGE = CHECKOUT / "docs" / "cluster.md"
FILES = {block.title: block.text for block in blocks(PAGE) if block.title}
FAKES = {  # what the script calls, each telling how it was called
    "scontrol": '[ "$1" = show ] && printf "n1\\nn2\\n" || echo "scontrol $*" >> calls',
    "srun": 'echo "srun $*" >> calls; exec sleep 5',
    "sleep": "true",
    "fungi": 'echo "fungi $* $RAY_AUTH_MODE ${#RAY_AUTH_TOKEN} $RAY_ADDRESS" >> calls; '
    "/bin/sleep 1; exit ${CODE:-0}",
}


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (1, False), (75, True)])
def test_the_job_script_starts_ray_and_requeues_what_was_stopped(
    tmp_path: Path, code: int, requeued: bool
) -> None:
    """Run by bash with stand-ins of SLURM: a head, the other nodes, one driver; its exit code."""
    script = tmp_path / "extract.sbatch"
    script.write_text(FILES["extract.sbatch"])
    subprocess.run(["bash", "-n", str(script)], check=True)
    for name, body in FAKES.items():
        fake = tmp_path / "bin" / name
        fake.parent.mkdir(exist_ok=True)
        fake.write_text(f"#!/bin/sh\n{body}\n".replace("exec sleep 5", "exec /bin/sleep 1"))
        fake.chmod(0o755)
    given = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "4"}
    given |= {"SLURM_GPUS_ON_NODE": "2", "SLURM_JOB_NUM_NODES": "2", "CODE": str(code)}
    given |= {"SOURCE": "images", "STORE": "s.fungi"}
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", str(script)], cwd=tmp_path, env=os.environ | given | {"PATH": path}, check=False
    )
    assert done.returncode == code
    calls = (tmp_path / "calls").read_text().splitlines()
    heads = [call for call in calls if "ray start --head --port=20007" in call]
    others = [call for call in calls if "ray start --address=n1:20007" in call]
    assert (len(heads), len(others)) == (1, 1)
    assert "--exclude=n1" in others[0]
    assert "--num-gpus 2" in others[0]
    assert (
        sum(call.startswith("fungi ") and call.endswith("token 64 n1:20007") for call in calls) == 1
    )
    assert ("scontrol requeue 7" in calls) == requeued


def test_the_manifest_is_one_of_a_ray_job() -> None:
    """Its fields are those of KubeRay's RayJob; its command is one that `fungi` takes."""
    job = yaml.safe_load(FILES["extract.yaml"])
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert set(job["spec"]) <= {
        *("entrypoint", "shutdownAfterJobFinishes", "backoffLimit", "rayClusterSpec"),
    }
    cluster = job["spec"]["rayClusterSpec"]
    assert set(cluster) <= {
        *("rayVersion", "authOptions", "enableInTreeAutoscaling"),
        *("headGroupSpec", "workerGroupSpecs"),
    }
    assert cluster["authOptions"]["mode"] == "token"
    (group,) = cluster["workerGroupSpecs"]
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for pods in (cluster["headGroupSpec"], group):
        spec = pods["template"]["spec"]
        mounted = {mount["name"] for one in spec["containers"] for mount in one["volumeMounts"]}
        assert mounted == {volume["name"] for volume in spec["volumes"]}
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[0] == "fungi"
    assert f"--actors {group['maxReplicas']}" in job["spec"]["entrypoint"]
    help_page = CliRunner().invoke(app, ["extract", "--help"], env={"COLUMNS": "200"}).output
    for word in words:
        assert not word.startswith("--") or word in help_page


def test_the_page_names_every_flag_of_a_cluster() -> None:
    """And none that is not there."""
    fields = fields_of(EngineChoice)
    text = PAGE.read_text(encoding="utf-8")
    names = ("actors", "address", "cpus_per_actor", "gpus_per_actor")
    assert all(f"`{fields[name].where}" in text for name in names)

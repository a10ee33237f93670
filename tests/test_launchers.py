"""The launchers without a cluster: the commands that they would give, and fields that must fit each other."""

import os
import pathlib
import shlex
import shutil
import subprocess

import pytest
import yaml

LAUNCH = pathlib.Path(__file__).parents[1] / "experiments" / "launch"
SCRIPTS = [LAUNCH / "tpu_pod.sh", LAUNCH / "slurm.sbatch"]


def say(script, *words, **environment):
    """What a script prints, where no gcloud, git or srun can be found."""
    tools = {name: shutil.which(name) for name in ("mktemp", "date", "env")}
    place = os.pathsep.join(sorted({str(pathlib.Path(path).parent) for path in tools.values()}))
    environment = {"PATH": place, "TMPDIR": os.environ.get("TMPDIR", "/tmp")} | environment
    return subprocess.run(
        [shutil.which("bash"), script, *words], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound(script):
    checker = shutil.which("shellcheck")
    command = [checker, "--shell=bash"] if checker else ["bash", "-n"]
    checked = subprocess.run([*command, script], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


WHERE = {"PROJECT": "mine", "ZONE": "here-1", "SHARE": "10.0.0.2:/share", "NAME": "job"}


def test_a_pod_is_asked_for_used_and_given_back_in_this_order():
    done = say(SCRIPTS[0], "--dry-run", "all", "configs/unlearning/demo.py", "--title=two words", **WHERE)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.replace("\\ ", " ").splitlines()
    begins = [
        "gcloud compute tpus queued-resources create job ",
        "gcloud compute tpus queued-resources describe job ",
        "git archive ",
        "gcloud compute tpus tpu-vm scp ",
        "gcloud compute tpus tpu-vm ssh job ",
        "gcloud compute tpus tpu-vm ssh job ",
        "gcloud compute tpus tpu-vm ssh job ",
        "mkdir -p runs",
        "gcloud compute tpus tpu-vm scp --recurse job:/mnt/clujax/job runs/ ",
        "gcloud compute tpus queued-resources delete job ",
    ]
    assert len(lines) == len(begins)
    for line, begin in zip(lines, begins):
        assert line.startswith(begin), line
    assert all("--zone=here-1 --project=mine" in line for line in lines if line.startswith("gcloud"))
    assert all(word in lines[0] for word in ("--node-id=job", "--accelerator-type=", "--runtime-version="))
    assert "--spot" not in lines[0]
    assert all("--worker=all" in line for line in lines[3:7])
    assert "mount -t nfs 10.0.0.2:/share /mnt/clujax" in lines[5]
    assert "clujax run configs/unlearning/demo.py --workdir /mnt/clujax/job" in lines[6]
    remote = shlex.split(done.stdout.splitlines()[6])[-1]
    assert "--title=two words" in shlex.split(remote)  # quoted once more for the host
    assert lines[-1].rstrip().endswith("--force --quiet")


def test_each_step_of_a_pod_can_be_given_alone():
    for step, count in (("create", 1), ("wait", 1), ("install", 4), ("run", 1), ("fetch", 2), ("delete", 1)):
        done = say(SCRIPTS[0], "--dry-run", step, "configs/unlearning/demo.py", **WHERE)
        assert (done.returncode, len(done.stdout.splitlines())) == (0, count), step
    assert "--spot" in say(SCRIPTS[0], "--dry-run", "create", SPOT="1", **WHERE).stdout


def test_a_pod_is_given_back_when_a_step_fails():
    failed = say(SCRIPTS[0], "all", "configs/unlearning/demo.py", **WHERE)  # there is no gcloud
    assert failed.returncode != 0
    lines = failed.stdout.splitlines()
    assert len(lines) == 2
    assert "queued-resources create" in lines[0]
    assert "queued-resources delete" in lines[1]
    kept = say(SCRIPTS[0], "all", "configs/unlearning/demo.py", KEEP="1", **WHERE)
    assert len(kept.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "lacks", "said"),
    [(["all"], (), "give a config"), (["fly"], (), "give a step"), (["create"], ("SHARE",), "set SHARE")],
)
def test_a_pod_says_what_is_missing(words, lacks, said):
    done = say(SCRIPTS[0], *words, **{name: value for name, value in WHERE.items() if name not in lacks})
    assert done.returncode == 2
    assert said in done.stderr
    assert not done.stdout


def test_slurm_starts_the_command_in_every_task():
    done = say(SCRIPTS[1], "--dry-run", "configs/unlearning/demo.py", "runs/demo", "--seeds=(0,)")
    assert done.returncode == 0
    (line,) = done.stdout.splitlines()
    assert line.startswith("srun --kill-on-bad-exit=1 ")
    assert "clujax run configs/unlearning/demo.py --workdir runs/demo --seeds=" in line
    settings = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2]
        for line in SCRIPTS[1].read_text().splitlines()
        if line.startswith("#SBATCH --")
    )
    assert settings["ntasks-per-node"] == settings["gpus-per-node"]
    assert say(SCRIPTS[1], "only-a-config").returncode == 2


def test_the_manifest_agrees_with_itself():
    manifest = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
    assert manifest["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert manifest["kind"] == "JobSet"
    (job,) = manifest["spec"]["replicatedJobs"]
    work = job["template"]["spec"]
    pod = work["template"]["spec"]
    (container,) = pod["containers"]
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert work["completionMode"] == "Indexed"
    assert work["parallelism"] == work["completions"] == int(environment["CLUJAX_PROCESSES"])
    name, subdomain = manifest["metadata"]["name"], manifest["spec"]["network"]["subdomain"]
    host, _, port = environment["JAX_COORDINATOR_ADDRESS"].partition(":")
    assert host == f"{name}-{job['name']}-0-0.{subdomain}"
    assert int(port) == container["ports"][0]["containerPort"]
    assert "--processes=$(CLUJAX_PROCESSES)" in container["command"]
    assert "--process=$(CLUJAX_PROCESS)" in container["command"]
    (rule,) = work["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert pod["restartPolicy"] == "Never"  # asked by podFailurePolicy
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted.keys() == {volume["name"] for volume in pod["volumes"]}
    (workdir,) = [word.partition("=")[2] for word in container["command"] if word.startswith("--workdir=")]
    assert workdir.startswith(f"{mounted['share']}/")
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    wide, high = map(int, topology.split("x"))
    assert wide * high == work["parallelism"] * container["resources"]["limits"]["google.com/tpu"]

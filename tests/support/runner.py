"""A runner of GitHub Actions, as far as crossroot's action and its printed jobs make use of one.

    runner = Runner(identity, folder, environment)
    result = runner.use_action(REPOSITORY, {"profile": "riscv64", "run": "uname -m"})
    assert result.status == 0

It runs steps as GitHub's own runner does: expressions are filled in, scripts run by bash, what they write to the files
in GITHUB_OUTPUT and so on has its effect on later steps, and what they print is searched for workflow commands.
"""

import hashlib
import json
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from tests.support.identity import Identity

Context = Mapping[str, Any]

_SHELLS = {"bash": "bash --noprofile --norc -eo pipefail", "": "bash -e"}
_TOKEN = re.compile(r"'(?:[^']|'')*'|==|[(),]|[\w.*-]+")


@dataclass(frozen=True)
class Annotation:
    """What `::error title=TITLE::MESSAGE` shows."""

    title: str
    message: str


@dataclass
class Result:
    """How a job went. status: of the step that failed, else 0. log: all output. outputs: of the action.
    groups: titles of the foldable parts of the log. environment: what was added for later steps. summary: in Markdown.
    """

    status: int = 0
    log: str = ""
    outputs: dict[str, str] = field(default_factory=dict)
    groups: list[str] = field(default_factory=list)
    annotations: list[Annotation] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    summary: str = ""


@dataclass
class Runner:
    """folder: owned by the identity; below it are HOME, the workspace with the checkout, RUNNER_TEMP.
    caches: what actions/cache has saved, files by key. environment: of the machine, besides the identity's own.
    process: of the step that runs, for a test that cancels it."""

    identity: Identity
    folder: Path
    environment: Mapping[str, str]
    caches: dict[str, Path] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None

    def __post_init__(self) -> None:
        for path in (self.home, self.workspace, self.temp, self.folder / "commands"):
            self.identity.run(["mkdir", "-p", path], cwd="/", check=True)
        self._numbers = count()

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def workspace(self) -> Path:
        return self.folder / "work/project"

    @property
    def temp(self) -> Path:
        return self.folder / "temp"

    def use_action(self, action: Path, inputs: Mapping[str, str], env: Mapping[str, str] | None = None) -> Result:
        """A job whose only step uses the composite action in `action`. env: of the job."""
        described = yaml.safe_load((action / "action.yml").read_text())
        assert set(inputs) <= set(described["inputs"])
        given = {name: inputs.get(name, about.get("default", "")) for name, about in described["inputs"].items()}
        lacking = [name for name, about in described["inputs"].items() if about.get("required") and name not in inputs]
        assert not lacking, f"the action needs {lacking}"
        steps: dict[str, Any] = {}
        result = self.run_steps(
            described["runs"]["steps"],
            {"inputs": given, "steps": steps},
            {**(env or {}), "GITHUB_ACTION_PATH": str(action)},
        )
        for name, about in described["outputs"].items():
            result.outputs[name] = self._fill(about["value"], {"steps": steps})
        return result

    def run_job(self, workflow: str, matrix: Mapping[str, str]) -> Result:
        """The only job of a workflow, with these values of its matrix."""
        (job,) = yaml.safe_load(workflow)["jobs"].values()
        context = {"matrix": matrix, "steps": {}}
        env = {name: self._fill(value, context) for name, value in job.get("env", {}).items()}
        return self.run_steps(job["steps"], context, env)

    def run_steps(self, steps: Sequence[dict[str, Any]], context: Context, env: Mapping[str, str]) -> Result:
        """Run steps one after another until one fails; then, if none did, save what is to be cached."""
        result = Result()
        to_save: dict[str, Path] = {}
        context = {"runner": {"arch": "X64"}, **context}
        for step in steps:
            if "if" in step and not _Expression(step["if"], context, self._functions()).value():
                continue
            values = {name: self._fill(str(value), context) for name, value in step.get("with", {}).items()}
            if "uses" not in step:
                own = {name: self._fill(value, context) for name, value in step.get("env", {}).items()}
                self._run(step, {**env, **result.environment, **own}, context, result)
            elif step["uses"].startswith("actions/cache@"):
                path = Path(values["path"].replace("~", str(self.home), 1))
                if not self._restore(values["key"], values["restore-keys"]):
                    to_save[values["key"]] = path
            else:  # the checkout is there
                assert step["uses"].startswith("actions/checkout@")
            if result.status:
                return result
        for key, path in to_save.items():
            self._save(key, path)
        return result

    def _run(self, step: Mapping[str, Any], env: Mapping[str, str], context: Context, result: Result) -> None:
        """Run the script of a step and let all that it does have its effect."""
        number = next(self._numbers)
        files = {name: self.folder / f"commands/{name}_{number}" for name in ("OUTPUT", "ENV", "PATH", "STEP_SUMMARY")}
        script = self.folder / f"commands/{number}.sh"
        script.write_text(self._fill(step["run"], context))
        self.identity.run(["touch", *files.values()], check=True)
        environment = {
            **self.environment,
            "HOME": str(self.home),
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_WORKSPACE": str(self.workspace),
            "RUNNER_TEMP": str(self.temp),
            **env,
            **{f"GITHUB_{name}": str(path) for name, path in files.items()},
        }
        command = [*_SHELLS[step.get("shell", "")].split(), str(script)]
        with self.identity.popen(
            command, env=environment, cwd=self.workspace, stderr=subprocess.STDOUT
        ) as self.process:
            output = self.process.communicate(timeout=300)[0].decode()
        result.status = self.process.returncode
        result.log += output
        _obey(output, result)
        result.summary += files["STEP_SUMMARY"].read_text()
        result.environment |= _settings(files["ENV"].read_text())
        for line in files["PATH"].read_text().splitlines():
            path = result.environment.get("PATH", self.identity.environment(self.environment)["PATH"])
            result.environment["PATH"] = f"{line}:{path}"
        if "id" in step:
            context["steps"][step["id"]] = {"outputs": _settings(files["OUTPUT"].read_text())}

    def _fill(self, text: str, context: Context) -> str:
        def value(match: re.Match[str]) -> str:
            return str(_Expression(match[1], context, self._functions()).value())

        return re.sub(r"\$\{\{(.*?)\}\}", value, text)

    def _functions(self) -> dict[str, Callable[..., str]]:
        return {"hashFiles": self._hash_files, "format": _format, "toJSON": json.dumps}

    def _hash_files(self, name: str) -> str:
        path = self.workspace / name
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""

    def _restore(self, key: str, prefix: str) -> bool:
        """Unpack what was saved under `key`, which is told, or else the newest under a key with this prefix."""
        found = [name for name in self.caches if name == key or name.startswith(prefix)]
        best = key if key in found else (found or [""])[-1]
        if best:
            self.identity.run(["tar", "-xPf", self.caches[best]], check=True)
        return best == key

    def _save(self, key: str, path: Path) -> None:
        self.caches[key] = self.folder / f"cache-{next(self._numbers)}.tar"
        self.identity.run(["tar", "-cPf", self.caches[key], path], check=True)


def _settings(text: str) -> dict[str, str]:
    """What a file in GITHUB_OUTPUT or GITHUB_ENV sets: lines NAME=VALUE."""
    return dict(line.split("=", 1) for line in text.splitlines())


def _format(template: str, *values: str) -> str:
    return template.format(*values)


def _obey(output: str, result: Result) -> None:
    """Take the workflow commands out of the output of a step."""
    token = ""
    depth = 0
    for line in output.splitlines():
        match = re.match(r"::([\w-]+)(?: ([^:]*))?::(.*)", line)
        if token:
            token = "" if line == f"::{token}::" else token
        elif match and match[1] == "stop-commands":
            token = match[3]
        elif match and match[1] == "group":
            result.groups.append(_unescape(match[3]))
            depth += 1
            assert depth == 1, "groups cannot be nested"
        elif match and match[1] == "endgroup":
            depth -= 1
            assert depth == 0, "a group ends that did not begin"
        elif match and match[1] == "error":
            properties = dict(pair.split("=", 1) for pair in (match[2] or "").split(",") if pair)
            result.annotations.append(Annotation(_unescape(properties.get("title", "")), _unescape(match[3])))
    if result.status >= 0:  # no signal ended it
        assert not token, "workflow commands are still stopped at the end"
        assert depth == 0, "a group did not end"


def _unescape(text: str) -> str:
    for code, character in (("%0A", "\n"), ("%0D", "\r"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
        text = text.replace(code, character)
    return text


class _Expression:
    """An expression of GitHub's: values, ==, function calls."""

    def __init__(self, text: str, context: Context, functions: Mapping[str, Callable[..., str]]) -> None:
        self.tokens = _TOKEN.findall(text)
        assert "".join(self.tokens) == re.sub(r"\s", "", text), f"the test's runner does not know {text}"
        self.context = context
        self.functions = functions

    def value(self) -> Any:
        left = self._operand()
        if self.tokens and self.tokens[0] == "==":
            self.tokens.pop(0)
            return left == self._operand()
        return left

    def _operand(self) -> Any:
        token = self.tokens.pop(0)
        if token.startswith("'"):
            return token[1:-1].replace("''", "'")
        if self.tokens and self.tokens[0] == "(":
            return self._call(token)
        found: Any = self.context
        for name in token.split("."):
            found = found.get(name, "") if isinstance(found, Mapping) else ""
        return found

    def _call(self, name: str) -> Any:
        arguments = []
        while self.tokens.pop(0) != ")":
            arguments.append(self.value())
        return self.functions[name](*arguments)

"""The model card: README.md with Hugging Face front matter, filled in from the report.

`form` says what lies beside the card: `run` (a run's directory, opened with Metier), `hf` (a directory for
`transformers`) or `peft` (an adapter for `peft`). A path of this machine never goes into a card.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import yaml

from metier.core.page import label, visible
from metier.core.project import write_text
from metier.evaluation import report as rendering
from metier.evaluation import view
from metier.evaluation.result import Report

Form = Literal["run", "hf", "peft"]
FILE_NAME = "README.md"
_HUB_TASKS = {"classify": "text-classification", "summarize": "summarization", "translate": "translation"}
_HUB_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")


def render(report: Report, *, form: Form = "run") -> str:
    """Return the model card."""
    front = yaml.safe_dump(front_matter(report, form=form), sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{front}---\n\n" + rendering.markdown_page(report, "card.md.j2", _usage(report, form))


def write(report: Report, folder: Path, *, form: Form = "run") -> Path:
    """Write README.md into the folder and return its path.

    Raises:
        MachineError: E420–E422, the folder cannot be written.
    """
    write_text(folder / FILE_NAME, render(report, form=form))
    return folder / FILE_NAME


# ───────────────────────────────────────────────────────────────────────────── front matter


def front_matter(report: Report, *, form: Form = "run") -> dict[str, Any]:
    """Return the card's metadata in Hugging Face's keys; what is not known is left out."""
    base = report.base_model
    adapter = _is_adapter(report, form)
    values = {
        "license": _license(base.get("license")),
        "license_name": visible(str(base["license"])) if _license(base.get("license")) == "other" else None,
        "base_model": base_name(report),
        "base_model_relation": "adapter" if adapter else "finetune",
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-classification" if _has_head(report) else "text-generation",
        "datasets": _datasets(report),
        "metrics": list(dict.fromkeys(f.metric.partition(":")[0] for f in view.metrics(report))),
        "tags": ["metier", label(report.training.method, 40)],
        "model-index": [{"name": label(report.name, 90), "results": _results(report)}],
    }
    return {name: value for name, value in values.items() if value not in (None, [], "")}


def base_name(report: Report) -> str:
    """Return the base model's name; of a path only the last part."""
    name = visible(str(report.base_model.get("name", ""))).strip()
    if name.startswith(("/", ".", "~")) or name.count("/") > 1 or "\\" in name:
        return Path(name.replace("\\", "/")).name
    return name


def _results(report: Report) -> list[dict[str, Any]]:
    """Return the run's figures as one model-index result."""
    run = view.run_of(report)
    figures = [f for f in (run.figures if run else []) if f.value is not None]
    if not figures:
        return []
    dataset = {"type": _dataset_name(report), "name": label(report.data.dataset, 90), "split": report.split}
    return [
        {
            "task": {"type": _HUB_TASKS.get(report.task, "text-generation"), "name": report.task},
            "dataset": {**dataset, "revision": report.data.digest},
            "metrics": [
                {"type": f.metric.partition(":")[0], "name": f.label, "value": round(f.value or 0.0, 6)}
                for f in figures
            ],
        }
    ]


def _license(spdx: Any) -> str:
    """Return the hub's spelling of an SPDX identifier, `other` for one of its own, `unknown` when none is stated."""
    if not spdx:
        return "unknown"
    name = re.sub(r"-(only|or-later)$", "", str(spdx).lower())
    return name if _HUB_LICENSE.fullmatch(name) and not name.startswith("licenseref") else "other"


def _datasets(report: Report) -> list[str]:
    hub = [
        str(s.get("path", "")).removeprefix("hf:")
        for s in report.data.sources
        if str(s.get("path", "")).startswith("hf:")
    ]
    return [visible(name) for name in dict.fromkeys(hub)] or [_dataset_name(report)]


def _dataset_name(report: Report) -> str:
    return label(report.data.dataset.removeprefix("data:").partition("@")[0], 90)


# ───────────────────────────────────────────────────────────────────────────── how it is used


def _is_adapter(report: Report, form: Form) -> bool:
    return form == "peft" or (form == "run" and report.training.adapter.startswith("lora"))


def _has_head(report: Report) -> bool:
    return report.task == "classify" and report.training.method.split()[0:1] == ["classify"]


def _usage(report: Report, form: Form) -> dict[str, Any]:
    number = report.run.split("-")[0].lstrip("0")
    return {
        "form": form,
        "head": _has_head(report),
        "base_name": base_name(report),
        "adapter": _is_adapter(report, form),
        "run_number": number if number.isdigit() else "last",
    }

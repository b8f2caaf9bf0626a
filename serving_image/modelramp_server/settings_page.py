"""`python -m modelramp_server.settings_page` writes docs/server-settings.md from the settings themselves."""

from modelramp_server.settings import KINDS, CommonSettings, default_of, flags_of

_HEAD = """\
# Settings of `modelramp-server`

Made from the settings by `make settings`; do not edit. What they mean together: [server.md](server.md).

A setting is an environment variable and a flag; the flag wins. A variable that is empty counts as not set. Outside a
cluster, `.env` in the working folder is read for what the environment does not set, MLflow's variables included. Sizes
are bytes, or a number with Ki, Mi, Gi, Ti, k, M, G or T.
"""


def page() -> str:
    """The page as it should be."""
    common = set(CommonSettings.model_fields)
    parts = [_HEAD, _table("For every command", CommonSettings, common)]
    for command, kind in KINDS.items():
        parts.append(_table(f"For `{command}`", kind, set(kind.model_fields) - common))
    return "\n".join(parts)


def _table(title: str, kind: type[CommonSettings], names: set[str]) -> str:
    lines = [f"## {title}", "| variable | flag | default | meaning |", "|---|---|---|---|"]
    for name, field in kind.model_fields.items():
        if name in names:
            default = "required" if field.is_required() else default_of(field)
            flags = ", ".join(f"`{flag}`" for flag in flags_of(name))
            meaning = (field.description or "").replace("|", "\\|")
            lines.append(f"| `{name.upper()}` | {flags} | {default} | {meaning} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")

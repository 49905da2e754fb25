r"""An evaluation for a paper in LaTeX: ``tables.tex`` (booktabs) and ``methods.tex``, each to be taken in with \input."""

from pathlib import Path

from medvlm_r1.report.story import Story
from medvlm_r1.report.tables import Table, methods, tables

_SIGNS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "−": "$-$", "–": "--", "“": "``", "”": "''",
    "α": r"$\alpha$", "κ": r"$\kappa$", "≥": r"$\geq$", "→": r"$\rightarrow$", "…": r"\ldots{}",
}  # fmt: skip


def write(story: Story, out: Path) -> list[Path]:
    """Both files in ``out``."""
    found = {"tables": "\n\n".join(map(tabular, tables(story))), "methods": described(methods(story))}
    paths = {out / f"{name}.tex": text for name, text in found.items()}
    for path, text in paths.items():
        path.write_text(f"% needs \\usepackage{{booktabs}}\n{text}\n", encoding="utf-8", errors="backslashreplace")
    return list(paths)


def escaped(text: str) -> str:
    r"""Text that LaTeX sets as it stands.

    >>> escaped("50 % of_{x}"), escaped("−1.0 to +2.0 (a\\b)")
    ('50 \\% of\\_\\{x\\}', '$-$1.0 to +2.0 (a\\textbackslash{}b)')
    """
    return "".join(_SIGNS.get(sign, sign) for sign in text)


def _cell(text: str) -> str:
    r"""What begins with a bracket or a star would be taken for an argument of the line before.

    >>> _cell("[7B]\n base"), _cell("*a"), _cell("a")
    ('{}[7B]  base', '{}*a', 'a')
    """
    flat = escaped(text.replace("\r", " ").replace("\n", " "))
    return "{}" * flat.startswith(("[", "*")) + flat


def tabular(table: Table) -> str:
    r"""One table with its caption and label, numbers to the right.

    >>> print(tabular(Table("flow", "Flow.", ("Arm", "n"), [("no_think", "3")])))
    \begin{table}
      \caption{Flow.}
      \label{tab:flow}
      \begin{tabular}{lr}
        \toprule
        Arm & n \\
        \midrule
        no\_think & 3 \\
        \bottomrule
      \end{tabular}
    \end{table}
    """
    lines = ["    " + " & ".join(map(_cell, row)) + r" \\" for row in (table.columns, *table.rows)]
    rules = [rf"    \{rule}" for rule in ("toprule", "midrule", "bottomrule")]
    body = [rules[0], lines[0], rules[1], *lines[1:], rules[2]]
    head = [
        r"\begin{table}",
        rf"  \caption{{{escaped(table.caption)}}}",
        rf"  \label{{tab:{table.name}}}",
        rf"  \begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
    ]
    return "\n".join([*head, *body, r"  \end{tabular}", r"\end{table}"])


def described(table: Table) -> str:
    r"""A list of items, as methods are; what stands behind a text's first line is a prompt, and every space of it counts.

    >>> print(described(Table("methods", "", (), [("Prompt", "As sent:\n  {question}")])))
    \begin{description}
      \item[{Prompt}] As sent:
    \begin{verbatim}
      {question}
    \end{verbatim}
    \end{description}
    """
    rows = [(what, *text.partition("\n")) for what, text in table.rows]
    items = [
        rf"  \item[{{{escaped(what)}}}] {escaped(text)}" + (f"\n\\begin{{verbatim}}\n{rest}\n\\end{{verbatim}}" if rest else "") for what, text, _, rest in rows
    ]
    return "\n".join([r"\begin{description}", *items, r"\end{description}"])

"""What a shell completes: names of scenarios and of kernels (click's shell completion)."""

from click import Context, Parameter
from click.shell_completion import CompletionItem


def complete_scenarios(
    _context: Context, _parameter: Parameter, begun: str
) -> list[CompletionItem | str]:
    """Scenarios of the catalogue, and traces where a path was begun."""
    from harness.scenarios.registry import catalogue

    names: list[CompletionItem | str] = [
        CompletionItem(name, help=entry.about)
        for name, entry in catalogue().items()
        if name.startswith(begun)
    ]
    return names or [CompletionItem(begun, type="file")]


def complete_kernels(
    _context: Context, _parameter: Parameter, begun: str
) -> list[CompletionItem | str]:
    """Kernels of the catalogue, or a path."""
    from harness.guest import catalogue

    names: list[CompletionItem | str] = [
        CompletionItem(entry.name, help=entry.about)
        for entry in catalogue.entries()
        if entry.name.startswith(begun)
    ]
    return names or [CompletionItem(begun, type="file")]

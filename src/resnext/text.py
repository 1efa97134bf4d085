"""Numbers as text, for tables and messages."""


def format_percent(percent: float | None) -> str:
    """Format an error in percent; empty for None."""
    return "" if percent is None else f"{percent:.2f} %"


def format_share(share: float | None) -> str:
    """Format a share, 0 to 1, as a percentage; a dash for None."""
    return "–" if share is None else f"{100 * share:.1f} %"


def format_number(value: float) -> str:
    """Format with three digits, but whole numbers in full: 0.0241, 3.35, 1,051."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

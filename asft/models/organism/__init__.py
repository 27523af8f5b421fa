"""The embedded pair: its weights come with the package for the default settings, others are trained on first use."""

from pathlib import Path

# By key, a folder with base, aligned and record.json. Weights depend on the processor that trains them, so that users
# who start from these start from the same pair.
PUBLISHED = Path(__file__).with_name("published")

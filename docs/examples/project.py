"""Repair a LoRA adapter that is already trained: python project.py ADAPTER BASE ALIGNED OUT."""

import sys

from asft import project_adapter

adapter, base, aligned, out = sys.argv[1:]
report = project_adapter(adapter, base, aligned, out, mode="threshold", threshold=0.35)
for module in report.modules:
    cosine = "no update" if module.cosine is None else f"cos {module.cosine:+.3f}"
    action = "projected" if module.projected else "kept"
    print(f"{module.name}: {cosine}, {action}, norm {module.norm_before:.3g} -> {module.norm_after:.3g}")

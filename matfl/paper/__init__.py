"""The paper's tables and figures: studies, plots, and the driver that executes the notebooks.

- `studies`: which runs a notebook needs, the numbers it draws, their captions, printed tables and claims.
- `plots`: axes-level figures of tidy frames; `names`: what tasks, metrics, methods and task sets are called in print.
- `shown`: captions and alternative texts under figures; `tables`: tables in HTML, Markdown, LaTeX and CSV.
- `stats`, `claims`, `dilution`: estimates, verdicts, and the closed forms of the explanation.
- `reproduce`: computes what the notebooks need and executes them; `choose`: settings chosen on development seeds.
- `face`: what `import matfl` shows of all this.
"""

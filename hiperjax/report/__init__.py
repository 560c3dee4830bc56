"""What a run learned, for eyes: one page, a console view, comparisons, plots.

Everything here reads run folders and nothing else: it may run beside the training it looks at, on
another machine, years later. Text of worlds and models is hostile until `text.show` has seen it.
"""

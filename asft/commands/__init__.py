"""One module a command of the command line."""

# A command of two words is the function WORD_WORD in the module of its first word.
COMMANDS = {
    "run": "train and score one cell; -m: every cell of a sweep",
    "report": "an experiment's table beside the paper's, as files and a page",
    "status": "which cells are done, running, failed, interrupted; time left",
    "dashboard": "every finished cell as one site that opens offline",
    "landscape": "the harmful score around the aligned model, drawn",
    "judge": "another judge on stored answers, and how far two judges agree",
    "track": "show finished cells to W&B or TensorBoard",
    "plan": "what an experiment will take: trainings, memory, time, disk",
    "doctor": "what an experiment needs and this machine lacks",
    "align": "make a model pair ready: copy, build, tune or download it",
    "anchor inspect": "the alignment direction's spectrum: more than weight decay?",
    "audit": "is a fine-tune still safe, and what is the cheapest repair?",
    "screen": "which rows of a data set are the likeliest to undo safety?",
    "project": "repair a LoRA adapter on disk with Safe LoRA",
    "store verify": "read every byte of the store and set damaged entries aside",
    "store gc": "list what can go; --yes deletes it",
    "store export": "an experiment's finished cells as one file",
    "store import": "bring an exported file's entries in",
}

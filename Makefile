# What can be done here. `make` alone lists it.
.DEFAULT_GOAL := help
CARGO ?= cargo
DEMO := target/demo
PEERS_PYTHON ?= target/peers/venv/bin/python
PEERS_ARGS ?=

.PHONY: help loom demo test faults lint audit fuzz fuzz-cov doc bench peers deb vm soak aarch64 cuda-check gpu-bundle install clean

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  make \1\t/' | expand -t 20

demo: setup-build ## detect on the bundled street clip: target/demo/detections.jsonl and annotated frames
	@$(CARGO) build --release
	@rm -rf $(DEMO) && mkdir -p $(DEMO)
	target/release/vovcam run --source assets/street.avi --headless --input 640 \
	    --jsonl $(DEMO)/detections.jsonl --save $(DEMO)/frames
	@echo "log:    $(DEMO)/detections.jsonl"
	@echo "frames: $(DEMO)/frames/"

test: setup-build setup-test ## all tests
	$(CARGO) test --release

faults: setup-build setup-test ## only the tests of damaged inputs, names, stopping, displays, secrets
	$(CARGO) test --release --test it faults::

lint: setup-build ## formatting, clippy and documentation, warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --no-deps

audit: setup-audit ## licences, sources and known weaknesses of all dependencies
	.ci/audit

FUZZ_TARGETS ?=
fuzz: setup-build ## 10 million mutated files for each reader, resumable: docs/fuzzing.md (FUZZ_TARGETS="avi y4m": only these)
	$(CARGO) test --release --test it -- --ignored --nocapture $(or $(addprefix fuzz::long::,$(FUZZ_TARGETS)),fuzz::long)

FUZZ_SECONDS ?= 600
fuzz-cov: setup-build setup-fuzz ## the same readers guided by coverage, with a nightly compiler
	VOVCAM_FUZZ_CORPUS=fuzz/corpus $(CARGO) test --release --quiet --test it -- --ignored fuzz::write_seeds
	for target in $(or $(FUZZ_TARGETS),avi y4m mjpeg model settings coco tar http); do \
	    CARGO_PROFILE_RELEASE_DEBUG=line-tables-only $(CARGO) +nightly fuzz run --sanitizer none $$target -- -max_total_time=$(FUZZ_SECONDS) -max_len=4096 || exit 1; done

doc: setup-build ## the library's documentation in target/doc
	$(CARGO) doc --no-deps

bench: setup-build ## time the engines, their layers and the whole program on this machine
	$(CARGO) bench --bench engine
	$(CARGO) bench --bench layers
	$(CARGO) bench --bench stages

peers: setup-build ## time other runtimes on the same network in turn with this one: target/peers.json
	@test -x $(PEERS_PYTHON) || { python3 -m venv target/peers/venv && \
	    target/peers/venv/bin/pip install -q -r benches/peers/requirements.txt; }
	$(PEERS_PYTHON) benches/peers/peers.py $(PEERS_ARGS)

PROFILE ?= release
FEATURES ?=
deb: setup-build setup-deb ## a Debian package: target/debian/vovcam_*.deb (FEATURES=cuda: with the CUDA engine)
	$(CARGO) build --profile $(PROFILE) --features "$(FEATURES)" --bin vovcam --example packaging
	.ci/packaging "$$($(CARGO) run --quiet --profile $(PROFILE) --features "$(FEATURES)" --example packaging)" $(FEATURES)
	$(CARGO) deb --quiet --no-build --profile $(PROFILE)
	@ls -l $${CARGO_TARGET_DIR:-target}/debian/vovcam_*.deb

vm: setup-build setup-deb setup-vm ## camera and service cases in a virtual machine: docs/vm.md
	tests/vm/run

soak: setup-build ## 50,000 frames at full speed, with memory and file descriptors watched
	$(CARGO) build --release
	tests/soak

loom: setup-build ## the thread pool under the loom model checker
	RUSTFLAGS="--cfg loom" $(CARGO) test --release --manifest-path tests/loom/Cargo.toml

aarch64: setup-build ## build and package for 64-bit Arm, run the kernels' tests under qemu
	.ci/aarch64

cuda-check: setup-build setup-cuda ## what can be known of the CUDA engine without a GPU
	.ci/cuda-check

gpu-bundle: setup-build setup-cuda ## parity test and benchmark to carry to a GPU machine: target/gpu-bundle.tar.xz
	benches/gpu/bundle.sh

install: setup-build ## install the program for this user
	$(CARGO) install --path . --locked

clean: ## remove everything that was built
	$(CARGO) clean

.PHONY: setup-build setup-test setup-audit setup-fuzz setup-vm setup-deb setup-cuda
setup-build:
	@.ci/setup build
setup-test:
	@.ci/setup test
setup-audit:
	@.ci/setup audit
setup-fuzz:
	@.ci/setup fuzz
setup-vm:
	@.ci/setup vm
setup-deb:
	@.ci/setup deb
setup-cuda:
	@.ci/setup cuda

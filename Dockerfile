# The image of deepgram-journal-backup; `make image` builds it, docs/image.md says more.
#
# BASE is Debian trixie with Python 3.11 or later, its venv module and ensurepip, for amd64 or arm64.
# Pin it by digest where builds must not differ: --build-arg BASE=docker.io/library/python@sha256:…
ARG BASE=docker.io/library/python:3.13-slim-trixie


# Every wheel, hashed: from the folder dist/wheelhouse if it is there, else from the network. A site's
# certificates and its pip.conf come as build secrets, which no layer holds.
FROM ${BASE} AS wheelhouse
WORKDIR /build
# The pattern keeps a folder that is not there from being an error.
COPY pyproject.toml dist/wheelhous[e]/ wheels/
COPY pyproject.toml uv.lock ./
COPY image/ image/
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \
    if [ -s /run/secrets/pip ]; then export PIP_CONFIG_FILE=/run/secrets/pip; fi; \
    ls wheels/*.whl >/dev/null 2>&1 || image/wheelhouse.sh wheels


# The virtual environment, from these wheels and no network. Whoever made the wheels: those in use have
# the hashes of uv.lock and image/tools.txt.
FROM ${BASE} AS build
WORKDIR /build
# A layer of the same files is the same bytes: times, the order of sets, bytecode without times.
ARG SOURCE_DATE_EPOCH=1577836800
ENV PYTHONHASHSEED=0 \
    PIP_NO_INDEX=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    UV_OFFLINE=1 UV_NO_CACHE=1 UV_NO_CONFIG=1 UV_PYTHON_DOWNLOADS=never
COPY --from=wheelhouse /build/wheels/ wheels/
COPY image/tools.txt image/
RUN python3 -m venv tools \
    && tools/bin/pip install --quiet --find-links wheels --require-hashes -r image/tools.txt
COPY pyproject.toml uv.lock ./
RUN python3 -m venv --without-pip /opt/journal-backup \
    && tools/bin/uv export --quiet --frozen --no-default-groups --no-emit-project -o locked.txt \
    && tools/bin/pip --quiet --python /opt/journal-backup/bin/python3 install --no-compile --no-deps \
        --find-links wheels --require-hashes -r locked.txt
COPY LICENSE README.md ./
COPY backup/ backup/
# Bytecode that is never compared with its source, which nobody can change here: start-up. The
# commands of the dependencies are nothing that anyone is to run here, and the Kubernetes client has
# all of itself a second time, for asyncio: half of it, which nothing here imports.
RUN tools/bin/hatchling build --target wheel --directory dist \
    && tools/bin/pip --quiet --python /opt/journal-backup/bin/python3 install --no-compile --no-deps \
        --find-links dist deepgram-journal-backup \
    && tools/bin/pip --python /opt/journal-backup/bin/python3 check \
    && rm -rf /opt/journal-backup/lib/python3*/site-packages/kubernetes/aio \
    && python3 -m compileall -qf --invalidation-mode unchecked-hash /opt/journal-backup/lib \
    && find /opt/journal-backup/bin -type f ! -name journal-backup -delete \
    && rm -f /opt/journal-backup/.gitignore


FROM ${BASE}
# Nothing is installed in here any more, so what the base brings for that goes. A standard library
# without bytecode (python:slim has none) gets it, or each start would compile it over again.
RUN lib=$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))') \
    && rm -rf "$lib/ensurepip" "$lib"/site-packages/pip* /usr/local/bin/pip* \
        /usr/share/python-wheels /var/lib/apt/lists/* /var/cache/apt/* \
    && if ! ls "$lib"/__pycache__/argparse.*.pyc >/dev/null 2>&1; then \
        PYTHONHASHSEED=0 python3 -m compileall -q --invalidation-mode unchecked-hash \
            -x '/(test|idlelib|lib2to3|site-packages|tkinter|turtledemo)/' "$lib"; \
    fi
COPY --from=build /opt/journal-backup/ /opt/journal-backup/

# The root file system may be read-only, and nothing is written to it. A file sink has to be a
# mounted volume: what is stored in a container is gone with it.
ENV PATH=/opt/journal-backup/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    BACKUP_FILE_REQUIRE_MOUNT=true
# By number: only so can Kubernetes see that it is not root (runAsNonRoot).
USER 65532:65532
WORKDIR /
ENTRYPOINT ["journal-backup"]
CMD ["backup"]

# Version, revision and source are added by image/build.sh, which knows them.
LABEL org.opencontainers.image.title="deepgram-journal-backup" \
    org.opencontainers.image.description="Backs up the usage journals of Deepgram Self-Hosted, and proves that the copies are whole" \
    org.opencontainers.image.licenses="Apache-2.0"

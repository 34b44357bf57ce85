# The trainer's command line, with torch. It speaks HTTP to a gateway and holds no solver.

# Wheels that pip prefers to the index, for instance a CPU-only torch. None by default; to give some:
# docker build --build-context wheels=DIR, or GDSOLVER_WHEELS=DIR with compose.
FROM scratch AS wheels

FROM python:3.11-slim-bookworm

# A numeric user, so that an orchestrator can see that it is not root.
RUN useradd --uid 10001 --create-home gdsolver

# Dependencies first: a change of the source below does not install them again.
WORKDIR /build
COPY pyproject.toml constraints.txt docker/requirements.py ./
RUN --mount=type=bind,from=wheels,target=/wheels \
    python requirements.py trainer > requirements.txt \
 && pip install --no-cache-dir --root-user-action=ignore --find-links /wheels -r requirements.txt -c constraints.txt
RUN --mount=type=bind,target=/source,rw \
    pip install --no-cache-dir --root-user-action=ignore --no-deps /source

ENV PYTHONUNBUFFERED=1
WORKDIR /home/gdsolver
USER 10001:10001
# Made here, so that volumes mounted on them belong to the user.
RUN mkdir -p runs .cache/gdsolver
ENTRYPOINT ["gdsolver"]

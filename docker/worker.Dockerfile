# A solver worker: takes jobs from Redis and solves them with SCIP or HiGHS. It holds neither FastAPI nor torch.
FROM python:3.11-slim-bookworm

# A numeric user, so that an orchestrator can see that it is not root.
RUN useradd --uid 10001 --create-home gdsolver

# Dependencies first: a change of the source below does not install them again.
WORKDIR /build
COPY pyproject.toml constraints.txt docker/requirements.py ./
RUN python requirements.py worker > requirements.txt \
 && pip install --no-cache-dir --root-user-action=ignore -r requirements.txt -c constraints.txt
RUN --mount=type=bind,target=/source,rw \
    pip install --no-cache-dir --root-user-action=ignore --no-deps /source

# A solve is to use one core: without these, numpy would start a thread on every core of the host.
ENV PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
WORKDIR /home/gdsolver
USER 10001:10001
ENTRYPOINT ["gdsolver-pool", "worker"]

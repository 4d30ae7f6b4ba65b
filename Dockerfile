FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -o /proxymatic ./cmd/proxymatic

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends haproxy pen tini \
    && useradd --system --no-create-home --shell /usr/sbin/nologin pen \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /proxymatic /usr/local/bin/proxymatic
# The proxies live and end with the container, so their connections are given time when that stops.
ENV HAPROXY=true HAPROXY_START=managed HAPROXY_RELOAD=managed ON_EXIT=drain
LABEL org.opencontainers.image.title="proxymatic" \
      org.opencontainers.image.description="Keeps the proxies of a host in step with the services of its cluster" \
      org.opencontainers.image.licenses="MIT"
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["proxymatic", "healthcheck"]
# tini reaps the workers of an HAProxy whose master was killed.
ENTRYPOINT ["tini", "--", "proxymatic"]

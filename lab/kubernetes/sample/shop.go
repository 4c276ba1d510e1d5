// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

var modes = []string{"ok", "errors", "slow", "notready", "crash", "leak"}

// shop is the service. Its mode is how it is broken at the moment.
type shop struct {
	version string
	pod     string
	slow    time.Duration
	mode    atomic.Value
	routes  *http.ServeMux
}

func newShop() *shop {
	pod, _ := os.Hostname()
	s := &shop{
		version: setting("VERSION", "unknown"),
		pod:     pod,
		slow:    milliseconds("SLOW_MS", 3000),
		routes:  http.NewServeMux(),
	}
	s.mode.Store(setting("MODE", "ok"))
	s.routes.HandleFunc("GET /version", s.work(func() any {
		return map[string]any{"version": s.version, "pod": s.pod, "settings": settings()}
	}))
	s.routes.HandleFunc("GET /settings", s.work(func() any { return settings() }))
	s.routes.HandleFunc("GET /health", s.health)
	s.routes.HandleFunc("GET /ready", s.health)
	s.routes.HandleFunc("POST /break", s.breakIt)
	return s
}

// ServeHTTP answers one request; in mode slow every answer is late but that to /break, which must be able to end it.
func (s *shop) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Version", s.version)
	if s.is("slow") && r.URL.Path != "/break" {
		time.Sleep(s.slow)
	}
	s.routes.ServeHTTP(w, r)
}

func (s *shop) is(mode string) bool { return s.mode.Load() == mode }

// work is what users come for: in mode errors it fails while the probes stay green.
func (s *shop) work(answer func() any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if s.is("errors") {
			say("ERROR", "%s %s failed: broken on purpose", r.Method, r.URL.Path)
			send(w, http.StatusInternalServerError, map[string]string{"error": "broken on purpose", "version": s.version})
			return
		}
		send(w, http.StatusOK, answer())
	}
}

func (s *shop) health(w http.ResponseWriter, _ *http.Request) {
	// What is about to crash must not look ready for a moment, or tests would depend on when the kubelet asks.
	if s.is("notready") || s.is("crash") {
		send(w, http.StatusServiceUnavailable, map[string]string{"status": "notready", "version": s.version})
		return
	}
	send(w, http.StatusOK, map[string]string{"status": "ok", "version": s.version})
}

func (s *shop) breakIt(w http.ResponseWriter, r *http.Request) {
	mode := r.URL.Query().Get("mode")
	if !slices.Contains(modes, mode) {
		text := fmt.Sprintf("unknown mode %q; known: %s", mode, strings.Join(modes, ", "))
		send(w, http.StatusBadRequest, map[string]string{"error": text})
		return
	}
	say("INFO", "mode %s", mode)
	s.mode.Store(mode)
	send(w, http.StatusOK, map[string]string{"mode": mode, "pod": s.pod})
	s.become(mode)
}

// become begins what a mode does by itself.
func (s *shop) become(mode string) {
	switch mode {
	case "crash":
		time.AfterFunc(200*time.Millisecond, func() {
			say("ERROR", "crash")
			os.Exit(1)
		})
	case "leak":
		go s.leak()
	}
}

// leak takes 8 MiB every 20 ms and touches each page of it, until the container's limit ends the program.
func (s *shop) leak() {
	var kept [][]byte
	for s.is("leak") {
		block := make([]byte, 8<<20)
		for i := 0; i < len(block); i += 4096 {
			block[i] = 1
		}
		kept = append(kept, block)
		time.Sleep(20 * time.Millisecond)
	}
	say("INFO", "leaked %d MiB", 8*len(kept))
}

// settings returns what was given to this pod: SHOP_* variables, and files of a mounted ConfigMap; not what Kubernetes
// itself says about a Service that happens to be called shop.
func settings() map[string]string {
	found := map[string]string{}
	for _, pair := range os.Environ() {
		name, value, _ := strings.Cut(pair, "=")
		ofService := strings.HasPrefix(name, "SHOP_PORT") || strings.HasPrefix(name, "SHOP_SERVICE_")
		if strings.HasPrefix(name, "SHOP_") && !ofService {
			found[name] = value
		}
	}
	folder := setting("SETTINGS", "/settings")
	entries, err := os.ReadDir(folder)
	if err != nil {
		return found // no ConfigMap is mounted
	}
	for _, entry := range entries {
		// ..data and its like are how kubelet swaps all files at once.
		if content, err := os.ReadFile(filepath.Join(folder, entry.Name())); err == nil {
			found[entry.Name()] = string(content)
		}
	}
	return found
}

func send(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func say(level, format string, args ...any) {
	fmt.Printf("%s %s\n", level, fmt.Sprintf(format, args...))
}

func setting(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func milliseconds(name string, otherwise int) time.Duration {
	number, err := strconv.Atoi(setting(name, ""))
	if err != nil {
		number = otherwise
	}
	return time.Duration(number) * time.Millisecond
}

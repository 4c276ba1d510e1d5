// SPDX-License-Identifier: GPL-3.0-or-later

// The sample service of the Kubernetes lab: one static program that says which version it is, and breaks when it is told to.
//
//	/shop          serve on :8080
//	/shop check    ask the service beside it whether it is healthy (for exec probes and checks); exit code 0 or 1
//	/shop get URL  print what an address answers; exit code 0 for 2xx
//	/shop pause    do nothing until told to stop: the first container of every pod
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	switch word := strings.Join(os.Args[1:], " "); {
	case word == "":
		serve()
	case word == "pause":
		<-told()
	case word == "check":
		os.Exit(get("http://" + beside() + "/health"))
	case len(os.Args) == 3 && os.Args[1] == "get":
		os.Exit(get(os.Args[2]))
	default:
		fmt.Fprintf(os.Stderr, "shop: unknown: %s; known: check, get URL, pause, or nothing at all\n", word)
		os.Exit(2)
	}
}

// told delivers when the program is told to stop.
func told() <-chan os.Signal {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	return signals
}

// serve runs until SIGTERM, and for DRAIN_MS after it: a pod is still being asked while the news that it goes spreads.
func serve() {
	shop := newShop()
	server := &http.Server{Addr: setting("LISTEN", ":8080"), Handler: shop, ReadHeaderTimeout: 10 * time.Second}
	stop := told()
	go func() {
		if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
			say("ERROR", "%v", err)
			os.Exit(1)
		}
	}()
	say("INFO", "version %s listens on %s, mode %s", shop.version, server.Addr, shop.mode.Load())
	shop.become(shop.mode.Load().(string))
	<-stop
	drain := milliseconds("DRAIN_MS", 1500)
	say("INFO", "told to stop, serving for %v more", drain)
	time.Sleep(drain)
}

// beside returns the loopback address of the service in the same pod.
func beside() string {
	_, port, err := net.SplitHostPort(setting("LISTEN", ":8080"))
	if err != nil {
		port = "8080"
	}
	return net.JoinHostPort("127.0.0.1", port)
}

// get prints what an address answers, on one line; returns 0 for 2xx, 1 for anything else.
func get(url string) int {
	client := &http.Client{Timeout: 10 * time.Second}
	answer, err := client.Get(url)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(answer.StatusCode, strings.TrimSpace(string(body)))
	if answer.StatusCode/100 != 2 {
		return 1
	}
	return 0
}

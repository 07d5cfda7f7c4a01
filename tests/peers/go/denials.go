package main

import (
	"fmt"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
)

// Many calls at once that shall be denied, and those among them that shall not: src/client/denials.rs.
type storm struct {
	denials, concurrency, allowed, code int
	message                             string
}

type outcome struct {
	allowed bool
	*result
}

func (s *storm) run(l *link, calls []*outgoing) object {
	total := s.denials + s.allowed
	var next int64
	outcomes := make([]outcome, total)
	began := time.Now()
	var workers sync.WaitGroup
	for i := 0; i < s.concurrency; i++ {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for {
				index := int(atomic.AddInt64(&next, 1)) - 1
				if index >= total {
					return
				}
				// Evenly: the k-th allowed one comes where index * share / total steps.
				allowed := (index+1)*s.allowed/total > index*s.allowed/total
				chosen := calls[0]
				if allowed {
					chosen = calls[1]
				}
				outcomes[index] = outcome{allowed, chosen.make(l, index)}
			}
		}()
	}
	workers.Wait()
	elapsed := time.Since(began)
	sums := map[string]int{}
	others := map[string]int{}
	var latencies []float64
	count := func(name string, holds bool) {
		if holds {
			sums[name]++
		}
	}
	for _, o := range outcomes {
		right := o.Code == s.code
		if o.allowed {
			right = o.Code == 0
		}
		count("unavailable", o.Code == int(codes.Unavailable))
		count("hung", o.Code == int(codes.DeadlineExceeded))
		if !right {
			text := strings.ToLower(o.Message)
			count("resets", strings.Contains(text, "reset") || strings.Contains(text, "broken pipe") || strings.Contains(text, "rst_stream"))
			others[fmt.Sprintf("%d: %s", o.Code, o.Message)]++
		}
		if o.allowed {
			count("allowed_ok", right)
			count("allowed_failed", !right)
			continue
		}
		latencies = append(latencies, o.LatencyMs)
		count("exact", right && o.Message == s.message)
		count("code_only", right && o.Message != s.message)
	}
	sort.Float64s(latencies)
	at := func(percent int) float64 {
		place := len(latencies) * percent / 100
		if place >= len(latencies) {
			place = len(latencies) - 1
		}
		return latencies[place]
	}
	connections := atomic.LoadInt64(&l.connections)
	out := object{
		"type": "denials", "denials": len(latencies), "others": others, "connections": connections, "reconnects": connections - 1,
		"elapsed_ms": float64(elapsed.Microseconds()) / 1000, "p50_ms": at(50), "p99_ms": at(99), "max_ms": at(100),
	}
	for _, name := range []string{"exact", "code_only", "unavailable", "resets", "hung", "allowed_ok", "allowed_failed"} {
		out[name] = sums[name]
	}
	return out
}

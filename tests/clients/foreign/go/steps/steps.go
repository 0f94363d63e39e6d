// Package steps says which step of a client's run worked, in lines that the runner reads.
package steps

import (
	"fmt"
	"os"
	"runtime/debug"
)

// Records is how many records each codec gets, Partitions over how many partitions.
const (
	Records    = 20000
	Partitions = 6
)

// Must prints the outcome of a step and ends the program if it failed.
func Must(err error, step string) {
	if err != nil {
		fmt.Printf("FAIL %s: %v\n", step, err)
		os.Exit(1)
	}
}

// Done says that a step worked.
func Done(step string) { fmt.Println("ok", step) }

// Version prints the version of the client library that was built in.
func Version(module string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return
	}
	for _, dependency := range info.Deps {
		if dependency.Path == module {
			fmt.Println("version", dependency.Version)
		}
	}
}

// Reading checks that each partition's records come in order, once, and all of them.
type Reading struct {
	next  map[string]int64
	Total int
}

// Take notes one record.
func (reading *Reading) Take(topic string, partition int32, offset int64) {
	if reading.next == nil {
		reading.next = map[string]int64{}
	}
	place := fmt.Sprintf("%s-%d", topic, partition)
	if want := reading.next[place]; offset != want {
		Must(fmt.Errorf("%s: offset %d where %d was due", place, offset, want), "order")
	}
	reading.next[place] = offset + 1
	reading.Total++
}

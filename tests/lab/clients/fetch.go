// Prints the pages whose addresses it is given.
package main

import (
	"io"
	"net/http"
	"os"
)

func main() {
	for _, url := range os.Args[1:] {
		answer, err := http.Get(url)
		if err != nil {
			panic(err)
		}
		io.Copy(os.Stdout, answer.Body)
	}
}

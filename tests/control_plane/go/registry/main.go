// Command registry is a container registry that forgets all names when it ends: a test node gets its images through it.
//
//	registry FOLDER     serve on a free port of 127.0.0.1, blobs in FOLDER; the address is the first line printed
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"

	"github.com/google/go-containerregistry/pkg/registry"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: registry FOLDER")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr())
	blobs := registry.WithBlobHandler(registry.NewDiskBlobHandler(os.Args[1]))
	quiet := registry.Logger(log.New(io.Discard, "", 0))
	log.Fatal(http.Serve(listener, registry.New(blobs, quiet)))
}

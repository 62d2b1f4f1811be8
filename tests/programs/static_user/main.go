// SPDX-FileCopyrightText: The ihsm authors
// SPDX-License-Identifier: Apache-2.0

// A static program without libc that uses the HSM node, as programs in Go do; prints what comes of it.
//
// Numbers, sizes, offsets and messages are in declarations.go, which the tests generate from ihsm_abi.
package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"unsafe"
)

const (
	goroutines           = 8
	commandsOfAGoroutine = 25
	pageSize             = 4096
)

func call(file *os.File, number uintptr, buffer []byte) syscall.Errno {
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, file.Fd(), number, uintptr(unsafe.Pointer(&buffer[0])))
	return errno
}

// named is the errno's text, or "0".
func named(errno syscall.Errno) string {
	if errno == 0 {
		return "0"
	}
	return errno.Error()
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}

func openNode(path string) *os.File {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	must(err)
	return file
}

func deviceInfo(file *os.File) (string, syscall.Errno) {
	info := make([]byte, deviceInfoSize)
	binary.LittleEndian.PutUint32(info, deviceInfoSize)
	errno := call(file, ioctlGetDevInfo, info)
	driver, _, _ := bytes.Cut(info[driverRevAt:driverRevAt+driverRevSize], []byte{0})
	return string(driver), errno
}

// ask sends GetApiRev and returns whether the answer is the declared one.
func ask(file *os.File) (bool, syscall.Errno) {
	// The structure has addresses as numbers, which the runtime does not follow: memory that it does not move.
	memory, err := syscall.Mmap(-1, 0, 2*pageSize, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	must(err)
	defer syscall.Munmap(memory)
	request, response := memory[:len(getAPIRev)], memory[pageSize:]
	copy(request, getAPIRev)
	command := make([]byte, genericSize)
	put := binary.LittleEndian
	put.PutUint32(command, genericSize)
	put.PutUint32(command[srcLengthAt:], uint32(len(request)))
	put.PutUint64(command[srcBufAt:], uint64(uintptr(unsafe.Pointer(&request[0]))))
	put.PutUint32(command[dstLengthAt:], uint32(len(response)))
	put.PutUint64(command[dstBufAt:], uint64(uintptr(unsafe.Pointer(&response[0]))))
	errno := call(file, ioctlGenericSession, command)
	size := put.Uint32(command[byteCountAt:])
	return errno == 0 && bytes.Equal(response[:size], getAPIRevAnswer), errno
}

func askConcurrently(file *os.File) int {
	var group sync.WaitGroup
	var lock sync.Mutex
	answered := 0
	for i := 0; i < goroutines; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for j := 0; j < commandsOfAGoroutine; j++ {
				if isRight, _ := ask(file); isRight {
					lock.Lock()
					answered++
					lock.Unlock()
				}
			}
		}()
	}
	group.Wait()
	return answered
}

// inChild is what the program does when it has started itself, with the file as descriptor 3.
func inChild() {
	inherited := os.NewFile(3, "inherited")
	_, errno := deviceInfo(inherited)
	fmt.Println("the parent's file in a child:", named(errno))
	driver, errno := deviceInfo(openNode(node))
	fmt.Println("a file of the child's own:", driver, named(errno))
}

func main() {
	if len(os.Args) > 1 {
		inChild()
		return
	}
	found, err := filepath.Glob("/dev/azihsm*")
	must(err)
	fmt.Println("found:", found)
	about, err := os.Stat(node)
	must(err)
	fmt.Println("mode:", about.Mode().Type())
	file := openNode(node)
	driver, errno := deviceInfo(file)
	fmt.Println("driver:", driver, named(errno))
	fmt.Println("an unknown number:", named(call(file, ioctlGenericSession-1, make([]byte, deviceInfoSize))))
	isRight, errno := ask(file)
	fmt.Println("GetApiRev:", isRight, named(errno))
	fmt.Println("goroutines:", goroutines, "commands answered:", askConcurrently(file))
	child := exec.Command("/proc/self/exe", "child")
	child.ExtraFiles = []*os.File{file}
	child.Stdout, child.Stderr = os.Stdout, os.Stderr
	must(child.Run())
	must(file.Close())
	_, err = os.OpenFile(node+"7", os.O_RDWR, 0)
	fmt.Println("one that is not there:", err)
}

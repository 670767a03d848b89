# An installed program, and a folder of it for machines without our packages.
#
#   cmake --install build --prefix ~/.local     program, data, manual page, completions
#   cpack --config build/CPackConfig.cmake      the same and the shared libraries that it needs, as one archive
#
# The program finds its data (harness/data_dir.c) and the libraries by its own place, so the tree can be moved. CUDA's
# libraries are too large to bring along: cuBLASLt is looked for where a toolkit or a container has it.
set(cuda_folders)
if(HAVE_CUDA)
  set(cuda_folders ${CUDAToolkit_LIBRARY_DIR} /usr/local/cuda/lib64)
endif()
set_target_properties(bench PROPERTIES INSTALL_RPATH "$ORIGIN/../lib;${cuda_folders}")
# RPATH and not RUNPATH, which would not be searched for what the libraries need themselves.
target_link_options(bench PRIVATE LINKER:--disable-new-dtags)

# ---- the program and its pages. Made at installation: an option stands in the program's own tables alone.
set(pages ${CMAKE_BINARY_DIR}/pages)
install(TARGETS bench RUNTIME DESTINATION bin COMPONENT program)
install(CODE "
  file(MAKE_DIRECTORY \"${pages}\")
  foreach(page man bash zsh fish)
    execute_process(COMMAND \"$<TARGET_FILE:bench>\" describe \${page} OUTPUT_FILE \"${pages}/\${page}\"
                    RESULT_VARIABLE failed)
    if(failed)
      message(FATAL_ERROR \"bench describe \${page}: \${failed}\")
    endif()
  endforeach()
  # which commit this is: the machine that runs it has no repository to ask
  execute_process(COMMAND git -C \"${CMAKE_SOURCE_DIR}\" describe --always --dirty --abbrev=40 --exclude=*
                  OUTPUT_FILE \"${pages}/revision\" ERROR_QUIET)" COMPONENT program)
install(FILES ${pages}/man DESTINATION share/man/man1 RENAME bench.1 COMPONENT program)
install(FILES ${pages}/bash DESTINATION share/bash-completion/completions RENAME bench COMPONENT program)
install(FILES ${pages}/zsh DESTINATION share/zsh/site-functions RENAME _bench COMPONENT program)
install(FILES ${pages}/fish DESTINATION share/fish/vendor_completions.d RENAME bench.fish COMPONENT program)
install(FILES ${pages}/revision DESTINATION share/chunkbench COMPONENT program)
install(DIRECTORY configs plots DESTINATION share/chunkbench COMPONENT program OPTIONAL)
install(FILES LICENSE README.md docs/OPTIONS.md docs/show.schema.json DESTINATION share/doc/chunkbench COMPONENT program)

# ---- the libraries: everything that is neither of the C and C++ runtime, which every distribution has, nor of CUDA
install(CODE "
  set(program \"$<TARGET_FILE:bench>\")
  set(cuda_folders \"${cuda_folders}\")" COMPONENT libraries EXCLUDE_FROM_ALL)
install(CODE [[
  file(GET_RUNTIME_DEPENDENCIES EXECUTABLES ${program}
    RESOLVED_DEPENDENCIES_VAR found UNRESOLVED_DEPENDENCIES_VAR missing DIRECTORIES ${cuda_folders}
    PRE_EXCLUDE_REGEXES "^ld-linux" "^lib(c|m|dl|rt|pthread|resolv|util)\\.so" "^lib(stdc\\+\\+|gcc_s)\\.so"
                        "^lib(cuda|cublas|cudart|nvidia|nvrtc|nvJitLink|nccl|cupti|cudnn)")
  if(missing)
    message(FATAL_ERROR "libraries that are not found: ${missing}")
  endif()
  foreach(library ${found}) # under the name that is asked for, and without the links that lead there
    get_filename_component(name ${library} NAME)
    get_filename_component(real ${library} REALPATH)
    file(INSTALL ${real} DESTINATION ${CMAKE_INSTALL_PREFIX}/lib RENAME ${name})
  endforeach()]] COMPONENT libraries EXCLUDE_FROM_ALL)

# ---- the archive
set(CPACK_GENERATOR TGZ)
set(CPACK_PACKAGE_DIRECTORY ${CMAKE_BINARY_DIR}) # not whatever folder it is called in: that is the source's
set(CPACK_PACKAGE_FILE_NAME chunkbench-${PROJECT_VERSION}-${CMAKE_SYSTEM_PROCESSOR})
if(HAVE_CUDA)
  string(APPEND CPACK_PACKAGE_FILE_NAME -cuda${CUDAToolkit_VERSION_MAJOR})
endif()
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "measures and checks chunked prefill of long prompts")
set(CPACK_PACKAGE_VENDOR chunkbench)
set(CPACK_STRIP_FILES ON)
set(CPACK_COMPONENTS_ALL program libraries)
set(CPACK_ARCHIVE_COMPONENT_INSTALL ON)
set(CPACK_COMPONENTS_GROUPING ALL_COMPONENTS_IN_ONE)
set(CPACK_COMPONENT_INCLUDE_TOPLEVEL_DIRECTORY ON)
include(CPack)

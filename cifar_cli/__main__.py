from cifar_cli.app import main

main()

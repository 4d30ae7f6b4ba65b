# proxymatic in a container, with puppetlabs-docker. Without stop_wait_time its releases before 10 kill at once in place of
# letting connections end; without remove_volume_on_stop each stop leaves a volume.
class profile::proxymatic_container (
  String $marathon = 'http://marathon-host:8080',
  String $image    = 'meltwater/proxymatic:latest',
) {
  include docker

  docker::run { 'proxymatic':
    image                 => $image,
    net                   => 'host',
    volumes               => ['proxymatic-state:/var/lib/proxymatic'], # what the sources told last
    env                   => ["MARATHON_URL=${marathon}"],
    stop_wait_time        => 10,
    remove_volume_on_stop => true,
  }
}
